#include "csrc/simt/trace.h"

#include <cstdio>

#include "csrc/simt/error.h"
#include "csrc/simt/symbols.h"

namespace convbound::simt {

namespace {

double ratio(uint64_t value, uint64_t ideal) {
  return ideal == 0 ? 1.0 : static_cast<double>(value) / static_cast<double>(ideal);
}

const char* name_of(AccessKind kind) {
  switch (kind) {
    case AccessKind::kLoad:
      return "load";
    case AccessKind::kStore:
      return "store";
    case AccessKind::kAsyncLoad:
      return "cp.async.ca";
    case AccessKind::kAsyncLoadBypass:
      return "cp.async.cg";
    case AccessKind::kAsyncStore:
      return "cp.async";
  }
  return "";
}

}  // namespace

double LaunchTrace::traffic_ratio() const { return ratio(load_bytes + store_bytes, compulsory_bytes); }
double LaunchTrace::coalescing() const { return ratio(sectors, ideal_sectors); }
double LaunchTrace::bank_conflicts() const { return ratio(wavefronts, ideal_wavefronts); }

void LaunchTrace::locate() {
  std::vector<uintptr_t> pcs;
  for (const SiteTrace& site : sites) pcs.push_back(site.pc);
  const std::vector<SourceLine> lines = source_lines(pcs);
  for (size_t i = 0; i < sites.size(); ++i) {
    sites[i].location = lines[i].location;
    sites[i].frames = lines[i].frames;
  }
}

std::string to_string(const LaunchTrace& trace) {
  char line[512];
  std::string text;
  std::snprintf(line, sizeof(line), "%s on %s: grid %s, block %s, %zu bytes of shared memory, %d resident blocks\n",
                trace.kernel.c_str(), trace.profile.c_str(), to_string(trace.grid).c_str(),
                to_string(trace.block).c_str(), trace.shared_bytes, trace.resident_blocks);
  text += line;
  std::snprintf(line, sizeof(line),
                "  SM-L2 loads %llu bytes (%llu of %llu blocks within their %llu bytes of L1), stores %llu, compulsory "
                "%llu: %.2fx; DRAM %llu\n",
                static_cast<unsigned long long>(trace.load_bytes), static_cast<unsigned long long>(trace.blocks_in_l1),
                static_cast<unsigned long long>(trace.blocks), static_cast<unsigned long long>(trace.l1_share),
                static_cast<unsigned long long>(trace.store_bytes),
                static_cast<unsigned long long>(trace.compulsory_bytes), trace.traffic_ratio(),
                static_cast<unsigned long long>(trace.dram_bytes));
  text += line;
  std::snprintf(line, sizeof(line), "  coalescing %.2fx, shared-memory wavefronts %.2fx\n", trace.coalescing(),
                trace.bank_conflicts());
  text += line;
  for (const SiteTrace& site : trace.sites) {
    const bool global = site.space == Space::kGlobal;
    std::snprintf(
        line, sizeof(line), "  %-28s %-6s %-11s %2u B  %10llu requests  %10llu %s  %.2fx\n", site.location.c_str(),
        global ? "global" : "shared", name_of(site.kind), site.bytes, static_cast<unsigned long long>(site.requests),
        static_cast<unsigned long long>(global ? site.sectors : site.wavefronts), global ? "sectors" : "wavefronts",
        global ? ratio(site.sectors, site.ideal_sectors) : ratio(site.wavefronts, site.ideal_wavefronts));
    text += line;
  }
  return text;
}

}  // namespace convbound::simt
