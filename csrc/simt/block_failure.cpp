// How a block reports what went wrong: the first failure, and for threads that wait for ever, who waits for whom.
#include <bit>
#include <cstdio>
#include <string_view>

#include "csrc/simt/block.h"
#include "csrc/simt/sanitizer.h"

namespace convbound::simt {

std::string to_string(Site site) {
  const std::string_view path = site.file_name();
  return std::string(path.substr(path.rfind('/') + 1)) + ":" + std::to_string(site.line());
}

dim3 Block::thread_index(unsigned thread) const { return indices_[thread]; }

std::string Block::whereabouts(unsigned thread) const {
  const Thread& other = threads_[thread];
  switch (other.state) {
    case State::kExited:
      return name_of(thread) + " has returned";
    case State::kAtBarrier:
      return name_of(thread) + " waits at the barrier at " + to_string(other.barrier_site);
    case State::kInCollective: {
      char mask[16];
      std::snprintf(mask, sizeof(mask), "0x%08x", other.call->mask);
      return name_of(thread) + " waits in " + op_name(other.call->op) + " with mask " + mask + " at " +
             to_string(other.call->site);
    }
    default:
      return name_of(thread) + " runs";
  }
}

// No thread can go on: says which one waits for whom. A warp collective is the deeper cause where there is one, unless
// the lane that it misses waits at a barrier that others will never reach.
void Block::diagnose() {
  failed_ = true;
  for (unsigned t = 0; t < threads_.size(); ++t) {
    if (threads_[t].state != State::kInCollective) continue;
    const WarpCall& call = *threads_[t].call;
    for (unsigned rest = call.mask; rest != 0; rest &= rest - 1) {
      const unsigned other = t / 32 * 32 + static_cast<unsigned>(std::countr_zero(rest));
      const WarpCall* others = threads_[other].state == State::kInCollective ? threads_[other].call : nullptr;
      if (others != nullptr && others->op == call.op && others->mask == call.mask) continue;
      char mask[16];
      std::snprintf(mask, sizeof(mask), "0x%08x", call.mask);
      record(ErrorKind::kWarpMask,
             std::string(op_name(call.op)) + " names lanes " + mask + ", but " + whereabouts(other), t,
             to_string(call.site), 0);
      return;
    }
  }
  for (unsigned t = 0; t < threads_.size(); ++t) {
    if (threads_[t].state == State::kAtBarrier) continue;
    record(ErrorKind::kBarrierDivergence,
           "waits at the barrier at " + to_string(threads_[first_arrived_].barrier_site) + ", but " + whereabouts(t),
           first_arrived_, to_string(threads_[first_arrived_].barrier_site), 0);
    return;
  }
}

void Block::record(ErrorKind kind, std::string what, unsigned thread, std::string site, uintptr_t pc) {
  failure_ = {kind, std::move(what), index_, thread, std::move(site), pc};
  sanitizer::release(&failed_);
}

void Block::stop(ErrorKind kind, std::string what, Site site) {
  record(kind, std::move(what), running_, to_string(site), 0);
  threads_[running_].fiber->abandon();
}

void Block::stop(ErrorKind kind, std::string what, uintptr_t pc) {
  record(kind, std::move(what), running_, "", pc);
  threads_[running_].fiber->abandon();
}

}  // namespace convbound::simt
