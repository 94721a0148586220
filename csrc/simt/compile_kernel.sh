#!/bin/sh
# Compiles one CUDA C++ source for the emulator: compile_kernel.sh SOURCE OBJECT COMPILER FLAGS...
#
# g++ does not know `#pragma unroll`, so the preprocessed text gets `#pragma GCC unroll` in its place. It matters to the
# tracer: taps of an unrolled loop are access sites of their own, as they are on a GPU, and lanes that skip a tap do not
# shift the others' ordinals. Writes OBJECT.ii and the dependency file OBJECT.d beside the object.
set -eu
source=$1 object=$2
shift 2
"$@" -E -MMD -MF "$object.d" -MT "$object" -x c++ "$source" -o "$object.raw.ii"
sed -E -e 's/^#pragma unroll *\(?([0-9]+)\)? *$/#pragma GCC unroll \1/' -e 's/^#pragma unroll( .*)?$/#pragma GCC unroll 65534/' \
    "$object.raw.ii" > "$object.ii"
rm "$object.raw.ii"
"$@" -fpreprocessed -x c++ -c "$object.ii" -o "$object"
