#include "csrc/simt/profile.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace convbound::simt {

namespace {

constexpr size_t kKiB = 1024;

constexpr Profile kProfiles[] = {
    {"sm_75", "T4", 7, 5, 40, 1024, 16, 64 * kKiB, 64 * kKiB, 0, 96 * kKiB, 4096 * kKiB},
    {"sm_80", "A100", 8, 0, 108, 2048, 32, 163 * kKiB, 164 * kKiB, kKiB, 192 * kKiB, 40960 * kKiB},
    {"sm_86", "RTX 3090", 8, 6, 82, 1536, 16, 99 * kKiB, 100 * kKiB, kKiB, 128 * kKiB, 6144 * kKiB},
    {"sm_89", "RTX 4090", 8, 9, 128, 1536, 24, 99 * kKiB, 100 * kKiB, kKiB, 128 * kKiB, 73728 * kKiB},
    {"sm_90", "H100 SXM", 9, 0, 132, 2048, 32, 227 * kKiB, 228 * kKiB, kKiB, 256 * kKiB, 51200 * kKiB},
    {"h200", "H200", 9, 0, 132, 2048, 32, 227 * kKiB, 228 * kKiB, kKiB, 256 * kKiB, 61440 * kKiB},
    {"sm_100", "B200", 10, 0, 148, 2048, 32, 227 * kKiB, 228 * kKiB, kKiB, 256 * kKiB, 129024 * kKiB},
    {"sm_120", "RTX 5090", 12, 0, 170, 1536, 24, 99 * kKiB, 100 * kKiB, kKiB, 128 * kKiB, 98304 * kKiB},
};

}  // namespace

const Profile& find_profile(std::string_view name) {
  std::string known;
  for (const Profile& profile : kProfiles) {
    if (profile.name == name) return profile;
    known += (known.empty() ? "" : ", ") + std::string(profile.name);
  }
  throw std::invalid_argument("profile: '" + std::string(name) + "' is not one of " + known);
}

int resident_blocks(const Profile& profile, unsigned threads, size_t shared_bytes, int registers_per_thread) {
  const int warps = static_cast<int>((threads + 31) / 32);
  int blocks = std::min(profile.max_blocks_per_sm, profile.max_threads_per_sm / (warps * 32));
  const size_t shared = shared_bytes + profile.reserved_shared_per_block;
  if (shared > 0) blocks = std::min(blocks, static_cast<int>(profile.shared_per_sm / shared));
  if (registers_per_thread > 0) {
    const int per_warp = (registers_per_thread + 7) / 8 * 8 * 32;
    blocks = std::min(blocks, kRegistersPerSm / (per_warp * warps));
  }
  return blocks;
}

}  // namespace convbound::simt
