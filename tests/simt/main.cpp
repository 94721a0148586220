#include "tests/simt/harness.h"

int main(int argc, char** argv) { return convbound::test::run(argc, argv); }
