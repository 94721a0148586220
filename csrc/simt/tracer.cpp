#include "csrc/simt/tracer.h"

#include <algorithm>
#include <bit>

#include "csrc/simt/launch.h"

namespace convbound::simt {

namespace {

constexpr unsigned kBanks = 32;

int width_index(unsigned bytes) { return std::countr_zero(std::bit_ceil(std::max(bytes, 1u))); }

uint64_t divide_up(uint64_t value, uint64_t divisor) { return (value + divisor - 1) / divisor; }

std::pair<uintptr_t, int> key_of(Space space, const Access& access) {
  return {access.pc, static_cast<int>(access.kind) * 64 + static_cast<int>(space) * 32 + width_index(access.bytes)};
}

}  // namespace

SectorMap::Entry& SectorMap::slot(uint64_t sector) {
  const size_t mask = entries_.size() - 1;
  size_t at = (sector * 0x9e3779b97f4a7c15ull >> 20) & mask;
  while (entries_[at].generation == generation_ && entries_[at].sector != sector) at = (at + 1) & mask;
  return entries_[at];
}

uint32_t& SectorMap::operator[](uint64_t sector) {
  Entry* entry = &slot(sector);
  if (entry->generation != generation_) {
    if (size_ * 2 >= entries_.size()) {
      grow();
      entry = &slot(sector);
    }
    *entry = {sector, 0, generation_};
    ++size_;
  }
  return entry->bits;
}

void SectorMap::clear() {
  size_ = 0;
  ++generation_;
}

void SectorMap::grow() {
  std::vector<Entry> old(entries_.size() * 2);
  old.swap(entries_);
  for (const Entry& entry : old) {
    if (entry.generation == generation_) slot(entry.sector) = entry;
  }
}

void LaunchSectors::clear() {
  for (SectorMap* map : {&written, &requested, &moved}) map->clear();
}

void LaunchSectors::merge_into(LaunchSectors& total) const {
  written.for_each([&](uint64_t sector, uint32_t bytes) { total.written[sector] |= bytes; });
  requested.for_each([&](uint64_t sector, uint32_t times) { total.requested[sector] += times; });
  moved.for_each([&](uint64_t sector, uint32_t times) { total.moved[sector] += times; });
}

std::vector<TensorTrace> LaunchSectors::by_tensor(const MemoryTable& memory) {
  std::vector<TensorTrace> traces;
  for (const auto& tensor : memory.tensors()) {
    TensorTrace& trace = traces.emplace_back();
    trace.tensor = tensor->name;
    for (size_t i = 0; i < tensor->sectors(); ++i) {
      trace.requested.push_back(requested[tensor->first_sector() + i]);
      trace.moved.push_back(moved[tensor->first_sector() + i]);
    }
  }
  return traces;
}

void Tracer::begin_launch(const Launch& launch) {
  warps_ = (launch.threads() + 31) / 32;
  l1_share_ = launch.l1_share;
  count_sectors_ = launch.options.sectors;
  memory_ = launch.memory;
  sites_.clear();
  last_site_ = nullptr;
  totals_ = {};
  launch_sectors_.clear();
}

void Tracer::begin_block() {
  for (auto& [key, site] : sites_) {
    for (Stream& stream : site.warps) {
      stream.count.fill(0);
      stream.requests.clear();
    }
  }
}

Tracer::Site& Tracer::site_of(Space space, const Access& access) {
  const auto key = key_of(space, access);
  if (last_site_ != nullptr && key == last_key_) return *last_site_;
  Site& site = sites_[key];
  if (site.warps.empty()) {
    site.counts.pc = access.pc;
    site.counts.space = space;
    site.counts.kind = access.kind;
    site.counts.bytes = access.bytes;
    if (const Tensor* tensor = space == Space::kGlobal ? memory_->find(access.address) : nullptr) {
      site.counts.tensor = tensor->name;
    }
    site.warps.resize(warps_);
  }
  site.counts.bytes = std::max(site.counts.bytes, access.bytes);
  last_site_ = &site;
  last_key_ = key;
  return site;
}

void Tracer::record(Space space, const Access& access, unsigned thread) {
  Site& site = site_of(space, access);
  Stream& stream = site.warps[thread / 32];
  const unsigned lane = thread % 32;
  const uint32_t ordinal = stream.count[lane]++;
  if (ordinal >= stream.requests.size()) stream.requests.resize(ordinal + 1, Request{{}, 0});
  Request& request = stream.requests[ordinal];
  request.address[lane] = access.address;
  request.lanes |= 1u << lane;
  ++site.counts.accesses;
  if (space == Space::kShared) return;
  auto& bytes = is_store(access.kind) ? totals_.stored_bytes_by_width : totals_.loaded_bytes_by_width;
  bytes[static_cast<size_t>(std::min(width_index(access.bytes), kWidths - 1))] += access.bytes;
}

void Tracer::count_global(Site& site, const Request& request) {
  uintptr_t addresses[32];
  size_t count = 0;
  for (unsigned rest = request.lanes; rest != 0; rest &= rest - 1) {
    addresses[count++] = request.address[static_cast<size_t>(std::countr_zero(rest))];
  }
  std::sort(addresses, addresses + count);
  count = static_cast<size_t>(std::unique(addresses, addresses + count) - addresses);
  const unsigned bytes = site.counts.bytes;
  const bool store = is_store(site.counts.kind);
  const bool cached = site.counts.kind == AccessKind::kLoad || site.counts.kind == AccessKind::kAsyncLoad;
  uint64_t sectors = 0;
  uint64_t last = UINT64_MAX;
  for (size_t i = 0; i < count; ++i) {
    const uint64_t sector = addresses[i] / 32;  // an aligned access lies in one sector
    uint32_t& written = launch_sectors_.written[sector];
    if (store) written |= static_cast<uint32_t>(((uint64_t{1} << bytes) - 1) << (addresses[i] % 32));
    if (sector == last) continue;
    last = sector;
    ++sectors;
    if (cached) ++block_sectors_[sector];
    if (!count_sectors_) continue;
    ++launch_sectors_.requested[sector];
    if (!cached) ++launch_sectors_.moved[sector];  // of a cached one end_block() knows
  }
  const uint64_t ideal = divide_up(count * bytes, 32);
  ++site.counts.requests;
  site.counts.sectors += sectors;
  site.counts.ideal_sectors += ideal;
  if (store) {
    totals_.store_bytes += 32 * sectors;
  } else {
    totals_.request_load_bytes += 32 * sectors;
    if (cached) block_cached_sectors_ += sectors;
  }
}

void Tracer::count_shared(Site& site, const Request& request) {
  const unsigned bytes = site.counts.bytes;
  const unsigned lanes_at_once = bytes == 16 ? 8 : bytes == 8 ? 16 : 32;
  uintptr_t all[32];
  size_t count = 0;
  uint64_t wavefronts = 0;
  for (unsigned first = 0; first < 32; first += lanes_at_once) {
    uintptr_t words[32];
    size_t word_count = 0;
    for (unsigned lane = first; lane < first + lanes_at_once; ++lane) {
      if (((request.lanes >> lane) & 1) == 0) continue;
      all[count++] = request.address[lane];
      for (uintptr_t word = request.address[lane] / 4; word <= (request.address[lane] + bytes - 1) / 4; ++word) {
        words[word_count++] = word;
      }
    }
    std::sort(words, words + word_count);
    word_count = static_cast<size_t>(std::unique(words, words + word_count) - words);
    unsigned per_bank[kBanks] = {}, most = 0;
    for (size_t i = 0; i < word_count; ++i) most = std::max(most, ++per_bank[words[i] % kBanks]);
    wavefronts += most;
  }
  std::sort(all, all + count);
  count = static_cast<size_t>(std::unique(all, all + count) - all);
  ++site.counts.requests;
  site.counts.wavefronts += wavefronts;
  site.counts.ideal_wavefronts += divide_up(count * bytes, 128);
}

void Tracer::end_block() {
  block_sectors_.clear();
  block_cached_sectors_ = 0;
  const uint64_t request_bytes_before = totals_.request_load_bytes;
  for (auto& [key, site] : sites_) {
    for (const Stream& stream : site.warps) {
      for (const Request& request : stream.requests) {
        if (site.counts.space == Space::kGlobal) {
          count_global(site, request);
        } else {
          count_shared(site, request);
        }
      }
    }
  }
  const uint64_t request_bytes = totals_.request_load_bytes - request_bytes_before;
  const uint64_t cached_request_bytes = 32 * block_cached_sectors_;
  const uint64_t distinct_bytes = 32 * static_cast<uint64_t>(block_sectors_.size());
  const bool fits = distinct_bytes <= l1_share_;
  const uint64_t bypassing_bytes = request_bytes - cached_request_bytes;
  totals_.load_bytes += bypassing_bytes + (fits ? distinct_bytes : cached_request_bytes);
  totals_.distinct_load_bytes += bypassing_bytes + distinct_bytes;
  ++totals_.blocks;
  totals_.blocks_in_l1 += fits;
  if (!count_sectors_) return;
  block_sectors_.for_each(
      [&](uint64_t sector, uint32_t requests) { launch_sectors_.moved[sector] += fits ? 1 : requests; });
}

void Tracer::merge_into(LaunchTrace& total, std::map<std::pair<uintptr_t, int>, SiteTrace>& sites,
                        LaunchSectors& sectors) const {
  total.blocks += totals_.blocks;
  total.blocks_in_l1 += totals_.blocks_in_l1;
  total.load_bytes += totals_.load_bytes;
  total.store_bytes += totals_.store_bytes;
  total.request_load_bytes += totals_.request_load_bytes;
  total.distinct_load_bytes += totals_.distinct_load_bytes;
  for (size_t i = 0; i < kWidths; ++i) {
    total.loaded_bytes_by_width[i] += totals_.loaded_bytes_by_width[i];
    total.stored_bytes_by_width[i] += totals_.stored_bytes_by_width[i];
  }
  for (const auto& [key, site] : sites_) {
    SiteTrace& into = sites[key];
    const SiteTrace& from = site.counts;
    into.pc = from.pc;
    into.tensor = from.tensor;
    into.space = from.space;
    into.kind = from.kind;
    into.bytes = std::max(into.bytes, from.bytes);
    into.accesses += from.accesses;
    into.requests += from.requests;
    into.sectors += from.sectors;
    into.ideal_sectors += from.ideal_sectors;
    into.wavefronts += from.wavefronts;
    into.ideal_wavefronts += from.ideal_wavefronts;
    const bool global = from.space == Space::kGlobal;
    (global ? total.requests : total.shared_requests) += from.requests;
    total.sectors += from.sectors;
    total.ideal_sectors += from.ideal_sectors;
    total.wavefronts += from.wavefronts;
    total.ideal_wavefronts += from.ideal_wavefronts;
  }
  launch_sectors_.merge_into(sectors);
}

}  // namespace convbound::simt
