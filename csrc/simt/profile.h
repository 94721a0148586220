// Architecture profiles: the limits and sizes of one typical GPU per compute capability, and of one more GPU by its
// name, from the tables "Technical Specifications per Compute Capability" and the product pages (SM count, L2).
#pragma once

#include <cstddef>
#include <string_view>

namespace convbound::simt {

struct Profile {
  std::string_view name;  // "sm_90", "h200"
  std::string_view gpu;   // the product whose SM count and L2 are used
  int major, minor;
  int sm_count;
  int max_threads_per_sm;
  int max_blocks_per_sm;
  size_t shared_per_block_optin;
  size_t shared_per_sm;
  size_t reserved_shared_per_block;  // taken by the system from each resident block's share
  size_t l1_and_shared;              // what L1 and shared memory divide between them
  size_t l2_bytes;

  int capability() const { return major * 10 + minor; }
};

inline constexpr size_t kSharedWithoutOptin = 48 << 10;
inline constexpr int kRegistersPerSm = 65536;
inline constexpr unsigned kMaxThreadsPerBlock = 1024;
inline constexpr unsigned kMaxBlockZ = 64;
inline constexpr unsigned kMaxGridX = 2147483647;
inline constexpr unsigned kMaxGridYZ = 65535;
inline constexpr size_t kMaxParameterBytes = 4096;
inline constexpr size_t kMaxDynamicShared = 227 << 10;  // over all profiles

// Throws std::invalid_argument for a name that is not a profile.
const Profile& find_profile(std::string_view name);

// Resident blocks per SM by threads, blocks, shared memory and, where known (not 0), registers per thread.
int resident_blocks(const Profile& profile, unsigned threads, size_t shared_bytes, int registers_per_thread);

}  // namespace convbound::simt
