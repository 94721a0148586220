#include "csrc/simt/session.h"

#include <stdexcept>

#include "csrc/simt/instrumentation.h"
#include "csrc/simt/profile.h"

namespace convbound::simt {

namespace {

thread_local Session* session = nullptr;

}  // namespace

Session::Session(Options options) : options_(std::move(options)), outer_(session) {
  find_profile(options_.profile);
  if (options_.second_profile.empty()) options_.second_profile = options_.profile;
  find_profile(options_.second_profile);
  if ((options_.check || options_.trace) && !instrumented()) {
    throw std::invalid_argument("check, trace: this build has no instrumented kernels; use the checked library");
  }
  session = this;
}

Session::~Session() { session = outer_; }

void Session::add_tensor(std::string name, const void* base, size_t bytes, Role role) {
  memory_.add(std::move(name), base, bytes, role);
}

void Session::finish() const {
  const bool all_blocks = options_.first_block == 0 && options_.blocks == UINT64_MAX;
  if (options_.check && all_blocks) memory_.check_all_written();
}

Session* current_session() { return session; }

const Options& current_options() {
  static const Options defaults{.second_profile = "sm_90"};
  return session != nullptr ? session->options() : defaults;
}

const std::string& device_profile(int device) {
  return device == 0 ? current_options().profile : current_options().second_profile;
}

int sm_count(const Profile& profile) {
  return current_options().sm_count > 0 ? current_options().sm_count : profile.sm_count;
}

bool instrumented() { return instrumentation_linked(); }

}  // namespace convbound::simt
