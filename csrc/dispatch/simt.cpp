#include "csrc/dispatch/simt.h"

#include <charconv>
#include <cstring>

namespace convbound::simt {

namespace {

size_t element_bytes(DType dtype) {
  switch (dtype) {
    case DType::kFloat16:
    case DType::kBFloat16:
      return 2;
    case DType::kFloat32:
      return 4;
    case DType::kFloat64:
      return 8;
  }
  return 0;
}

// What the pass reads and writes, for the checker.
void add_tensors(Session& session, const Call& call) {
  const ConvProblem& p = call.problem;
  const auto add = [&](const char* name, const void* base, int64_t elements, bool written) {
    if (base == nullptr) return;
    const size_t bytes = static_cast<size_t>(elements) * element_bytes(call.dtype);
    session.add_tensor(name, base, bytes, written ? Role::kOutput : Role::kInput);
  };
  add(call.pass == Pass::kDgrad ? "dx" : "x", call.tensors.x, p.n * p.c * p.input_size(), call.pass == Pass::kDgrad);
  add(call.pass == Pass::kWgrad ? "dw" : "w", call.tensors.w, p.k * p.c_per_group() * p.filter_size(),
      call.pass == Pass::kWgrad);
  add(call.pass == Pass::kFprop ? "y" : "dy", call.tensors.y, p.n * p.k * p.output_size(), call.pass == Pass::kFprop);
  add(call.pass == Pass::kWgrad ? "dbias" : "bias", call.tensors.bias, call.pass == Pass::kDgrad ? p.c : p.k,
      call.pass == Pass::kWgrad);
}

template <typename Value>
Value one_of(std::string_view key, std::string_view text, std::initializer_list<std::pair<const char*, Value>> known) {
  std::string names;
  for (const auto& [name, value] : known) {
    if (text == name) return value;
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  throw std::runtime_error("option " + std::string(key) + "=" + std::string(text) + " is not one of " + names);
}

int64_t number(std::string_view key, std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) {
    throw std::runtime_error("option " + std::string(key) + "=" + std::string(text) + " is not a number from 0 on");
  }
  return value;
}

void set_option(Options& options, std::string_view key, std::string_view value) {
  if (key == "check" && value.empty()) {
    options.check = true;
  } else if (key == "trace" && value.empty()) {
    options.trace = true;
  } else if (key == "sectors" && value.empty()) {
    options.sectors = true;
  } else if (key == "profile") {
    options.profile = value;
  } else if (key == "order") {
    options.order = one_of<ThreadOrder>(
        key, value,
        {{"forward", ThreadOrder::kForward}, {"reverse", ThreadOrder::kReverse}, {"random", ThreadOrder::kRandom}});
  } else if (key == "cp_async") {
    options.async_copy = one_of<AsyncCopy>(key, value, {{"eager", AsyncCopy::kEager}, {"late", AsyncCopy::kLate}});
  } else if (key == "seed") {
    options.seed = static_cast<uint64_t>(number(key, value));
  } else if (key == "blocks") {
    const size_t colon = std::min(value.find(':'), value.size());
    options.first_block = static_cast<uint64_t>(number(key, value.substr(0, colon)));
    options.blocks = static_cast<uint64_t>(number(key, value.substr(std::min(colon + 1, value.size()))));
  } else if (key == "sms") {
    options.sm_count = static_cast<int>(number(key, value));
  } else if (key == "workers") {
    options.workers = static_cast<int>(number(key, value));
  } else {
    throw std::runtime_error(
        "option " + std::string(key) +
        " is unknown; there are check, trace, sectors, profile=, sms=, order=, seed=, cp_async=, blocks= and workers=");
  }
}

}  // namespace

Options parse_options(std::string_view text) {
  constexpr std::string_view kSeparators = " ,\t\r\n";
  Options options;
  for (size_t begin = text.find_first_not_of(kSeparators); begin != std::string_view::npos;
       begin = text.find_first_not_of(kSeparators, begin)) {
    const std::string_view word = text.substr(begin, text.find_first_of(kSeparators, begin) - begin);
    const size_t equals = word.find('=');
    set_option(options, word.substr(0, equals), equals == std::string_view::npos ? "" : word.substr(equals + 1));
    begin += word.size();
  }
  return options;
}

std::vector<LaunchTrace> run(const Call& call, const Options& options) {
  try {
    Session session(options);
    const bool watched = options.check || options.trace;
    if (watched) add_tensors(session, call);
    const Allocate allocate = [&](size_t bytes) {
      void* const workspace = call.allocate(bytes);
      std::memset(workspace, 0xff, bytes);  // NaN in every type
      if (watched) session.add_tensor("workspace", workspace, bytes, Role::kWorkspace);
      return workspace;
    };
    device::run(call.row, call.pass, call.problem, call.dtype, call.layout, call.tensors, allocate, device::describe(0),
                nullptr);
    session.finish();
    return session.traces();
  } catch (const std::invalid_argument& error) {  // of an option
    throw std::runtime_error(error.what());
  }
}

}  // namespace convbound::simt
