// The hash of the sources that this library was built from; the loader refuses a library that is older than its
// package.
extern "C" __attribute__((visibility("default"))) const char* convbound_source_hash() { return CONVBOUND_SOURCE_HASH; }
