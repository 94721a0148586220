"""The problems that CUDA kernels are tested on beside those of every kernel: around their tiles, and around limits."""

from __future__ import annotations

from fnmatch import fnmatch

from convbound.problem import ConvProblem
from support.problems import PROBLEMS


def problems(text: str) -> tuple[ConvProblem, ...]:
    """One problem per line, with a note what it is there for."""
    return tuple(map(ConvProblem.parse, text.strip().splitlines()))


# For every row: around the naive kernels' blocks, around what 16 bits count, and where tensors are smallest.
EDGES = problems(
    """
    ic1iw1oc1kw1 one element
    ic1iw255oc1kw1 naive:one less than a block
    ic1iw256oc1kw1 naive:one block
    ic1iw257oc1kw1 naive:one more
    mb3g43ic43iw2oc43kw2pw1ew0 naive:a block and two threads
    mb65537ic1iw1oc1kw1 batch beyond 65535
    g65537ic65537iw2oc65537kw2 channels beyond 65535
    ic2ih1iw9oc2kh3kw4ph4pw7 padding wider than the input
    g2ic2ih5iw6oc2kh5kw6 a filter as large as the input
    ic2iw40oc2kw2dw39 a dilation as wide as the input
    g8ic8ih1oc8kh3ph1 depthwise:one pixel
    g2ic2id1ih4oc2kd1kh5sd8sh1pd2pw1 depthwise:a depth of one whose output lies in the padding
    """
)

# For the rows whose name matches: sizes around their tiles, and each way that they choose between.
TILES = {
    "depthwise_?????_nchw_*": problems(
        """
        mb5g30ic30ih7oc30kh3ph1 planes:7x7 two to a block and a rest, filters that wrap
        mb3g9ic9ih14oc9kh3ph1 planes:14x14 a block and a rest
        mb2g3ic3ih28oc3kh3ph1 planes:28x28 a block and a rest
        g2ic2ih56oc2kh3ph1 planes:56x56
        mb37g8ic8ih7oc8kh5ph2 planes:filters as one run
        mb3g64ic64ih7oc64kh5ph2 planes:filters for two images, and one left
        mb4g32ic32ih7oc32kh7ph3 planes:filters for two images
        mb2g67ic67ih5iw6oc67kh3ph1 planes:fewer than a block of the second image
        mb2g3ic3ih13iw10oc9kh5sh2ph2pw1 planes:multiplier across blocks
        g2ic2ih29iw2oc2kh3ph1 planes:a strip, one more row, one pair
        g2ic2ih13iw3oc2kh3ph1 planes:one row less than a strip
        g3ic3ih7iw6oc3kh3ph3pw2 planes:padding as wide as the filter
        g2ic2ih3iw8oc2kh7ph3 planes:lower than the filter
        ic1ih60iw112oc1kh3ph1 bands:the last one shorter
        g2ic2ih57iw60oc2kh7ph3 bands:in fp32
        ic1ih61iw150oc1kh5sh2ph2 bands:stride
        ic1ih40iw301oc1kh3ph1 bands:odd width
        ic1ih90iw129oc1kh3ph0pw2eh2ew1 bands:off centre
        ic1ih200iw5oc1kh3ph20 bands:padding wider than a band
        ic1ih6iw1700oc1kh3ph1 tiled:too wide for bands
        mb2g2ic2ih14iw13oc2kh31ph15 tiled:31x31 beyond the plane
        mb2g2ic2ih20iw9oc2kh51kw5ph25pw2 tiled:51x5
        mb2g2ic2ih5iw51oc2kh1kw13ph0pw6 tiled:1x13
        mb3g40ic40ih3oc40kh2ph1eh0ew0 tiled:planes share a block
        mb2g3ic3ih33iw16oc6kh9ph4 tiled:multiplier
        ic1ih10iw300oc1kh3kw8ph1pw2 tiled:three tiles across
        ic1ih530iw8oc1kh1kw9ph0pw4 tiled:two tiles down
        g2ic2ih9iw11oc4kh4kw2sh3sw2ph1pw1 tiled:any stride
        """
    ),
    "depthwise_?????_nchw_toeplitz": problems(
        """
        ic1ih57iw60oc1kh7pw9 rows of input as wide as those in shared memory
        g2ic2ih56oc2kh31ph15 five strips, seven tiles
        g2ic2ih57iw55oc2kh31ph15 one row more, one column less
        mb2g3ic3ih33iw40oc3kh21ph10 four strips
        mb2g3ic3ih28oc3kh29ph14 four tiles, rows of 8 bytes
        mb2g3ic3ih31iw30oc3kh13ph6 three strips, rows of 4 bytes
        mb2g3ic3ih32iw65oc3kh9ph4 two strips, nine tiles
        g2ic2ih64iw48oc2kh9ph4 two strips, a lead
        g2ic2ih22iw40oc2kh32kw9ph16pw4 two strips, two tiles
        g2ic2ih63iw56oc2kh15kw36ph7pw18 three strips, four tiles
        g2ic2ih57iw56oc2kh27kw24ph13pw12 four strips, four tiles
        g2ic2ih66iw16oc2kh28kw30ph14pw15 five strips, four tiles
        g2ic2ih40iw37oc2kh51kw5ph25pw2 lower than the filter
        g2ic2ih23iw56oc2kh5kw51ph2pw25 two chunks of four strips
        g2ic2ih17iw90oc2kh2kw90ph1pw45 three chunks
        ic1ih200iw150oc1kh31ph15 bands of rows
        ic1ih130iw300oc1kh13kw20ph3pw9 bands, an even filter
        mb2g2ic2ih33iw40oc6kh11ph5 multiplier
        mb2g2ic2ih40iw48oc2kh11ph0 no padding
        g2ic2ih24iw25oc2kh15ph15pw19 padding wider than the filter
        g2ic2ih30iw60oc2kh17ph0pw0eh-3ew-9 cropped
        mb33g130ic130ih3iw4oc130kh31ph15 sixteen images and one left
        mb13g110ic110ih7oc110kh31ph15 five images, three left
        mb5g160ic160ih16iw8oc160kh21kw17ph10pw8 three images in aligned rows, two left
        """
    ),
    "depthwise_?????_nhwc*": problems(
        """
        mb9g17ic17ih2iw7oc17kh3ph1 one patch, a slice and a half, more images than a block takes
        g72ic72ih3iw8oc72kh3ph1 one row and one column more
        g16ic16ih16iw28oc16kh7ph3 whole tiles
        g16ic16ih29iw57oc16kh5ph2 whole tiles and one more
        g8ic8ih6iw13oc8kh5sh2ph3pw1 stride 2, one column less
        g8ic8ih3iw5oc8kh3ph7pw9 padding wider than the input
        g8ic8ih9iw20oc8kh7ph0 no padding
        g16ic16ih20iw23oc16kh31ph15 general:filter in several groups of rows
        g8ic8ih30iw9oc8kh51kw5ph25pw2 general:51x5
        mb2g10ic10ih13iw11oc20kh3ph1 general:multiplier 2
        g16ic16ih9iw21oc16kh3kw5sh3sw2ph1pw3dh2dw3 general:stride and dilation
        g24ic24iw97oc24kw9sw2pw4 general:1-D stride 2
        mb2g24ic24iw230oc24kw4pw3ew0 general:several 1-D tiles
        """
    ),
    "depthwise_?????_ncl": problems(
        """
        g5ic5iw4104oc5kw3pw1 one vector more than a tile
        g3ic3iw4097oc3kw4pw3ew0 one element more
        mb2g4ic4iw100oc4kw33pw16 more taps than a vector has elements
        mb2g24ic24iw64oc48kw2pw1ew0 multiplier 2
        mb2g24ic24iw40oc24kw8pw9 padding wider than the filter
        mb2g4ic4ih6iw16oc4kh1kw3ph0pw1 rows of images
        """
    ),
    "depthwise_wgrad*": problems(
        """
        ic1ih1iw1oc1kh3ph1 one pixel
        g6ic6ih2iw2oc6kh7ph3 a filter larger than the input
        g3ic3ih3iw56oc3kh3ph1 a slot per warp
        mb9g3ic3ih14iw14oc3kh3ph1 four slots per warp and a rest of images
        mb5g11ic11ih7iw7oc11kh3ph1 several channels per block and a rest
        mb5g9ic9ih7iw7oc9kh5ph2 several channels per block
        mb300g3ic3ih4iw4oc3kh3ph1 many small images
        mb2g2ic2ih58iw57oc2kh3ph1 odd columns
        g2ic2ih200iw20oc2kh3ph1 strips
        mb3g2ic2ih14iw15oc2kh3sh2ph1 stride 2
        mb3g2ic2ih13iw112oc2kh5sh2ph2 stride 2, two warps per slot
        mb2g3ic3ih14iw12oc3kh7ph3 7x7
        g2ic2ih3iw600oc2kh3ph1 column tiles
        g2ic2ih5iw643oc2kh5ph2 column tiles of rows at odd offsets
        mb2g6ic6ih9iw11oc6kh3ph4 padding wider than the filter
        g6ic6ih12iw13oc18kh3ph1 multiplier
        mb5g40ic40ih9iw8oc40kh3sh2ph1 channels beyond a warp
        g64ic64ih6iw18oc64kh5ph2 granules of 16 bytes in NHWC
        g32ic32ih9iw17oc32kh7ph3 one column more than a tile in NHWC
        g36ic36ih8iw9oc72kh3ph1 multiplier, channels beyond a warp
        g2ic2ih20iw22oc2kh9ph4 four tiles of 5x5
        g2ic2ih18iw20oc2kh31ph15 sixteen tiles of 8x8
        g2ic2ih60iw20oc2kh51kw5ph25pw2 eleven tiles of 5x5
        g2ic2ih20iw22oc2kh13kw11ph6pw5 four tiles
        g2ic2ih9iw40oc2kh1kw9pw4 one row of taps
        g2ic2ih40iw9oc2kh9kw1ph4pw0 one column of taps
        g2ic2ih9iw21oc2kh4ph2 an even filter
        mb2g4ic4ih20iw21oc4kh3ph4dh4 dilation
        mb2g4ic4ih33iw33oc4kh3ph12dh12 dilation 12
        g6ic6ih20iw21oc6kh7ph9dh3 dilation, nine tiles
        g6ic6ih20iw21oc6kh5sh3ph2 stride 3
        mb3g5ic5iw300oc5kw4pw3ew0 causal 1-D
        g5ic5iw5000oc5kw8pw7ew0 causal 1-D, strips
        g5ic5iw700oc10kw15pw7 1-D, two tiles and a multiplier
        g5ic5iw301oc5kw4dw3pw9ew0 1-D, dilation
        g5ic5iw301oc5kw3sw2pw1 1-D, stride 2
        g8ic8ih17iw12oc8kh3sh2ph1eh0 several channels per block, rows that no tap reaches
        g8ic8ih20iw12oc8kh5sh4ph1 several channels per block and groups of tiles
        g40ic40iw700oc40kw4pw3ew0 1-D, channels beyond a warp
        g40ic40iw300oc40kw15pw7 1-D, two tiles, channels beyond a warp
        mb2g2ic2ih16iw15oc2kh1kw3sh4sw1ph0pw1 several channels per block, strides 4 and 1
        mb1g2ic2ih10iw11oc2kh2kw1sh3sw1dw2 several channels per block, strides 3 and 1
        """
    ),
    "depthwise_wgrad_nchw_mma": problems(
        """
        mb70g5ic5ih7oc5kh7ph3 narrow, four channels a block and one left, images beyond a round
        mb9g6ic6ih14oc6kh5ph2 narrow, two channels a block, two tracks for a row
        mb5g3ic3ih20iw40oc3kh3ph1 narrow, five tracks for a row
        mb3g2ic2ih19iw37oc2kh5kw6sh2ph2 narrow, stride 2
        mb33g2ic2ih28oc2kh3ph1 wide, more images than tracks
        mb6g2ic2ih30iw56oc2kh7ph3 wide, two parts
        g2ic2ih40iw130oc2kh7ph3 wide, five tracks for a row
        ic1ih22iw480oc1kh3ph1 wide, strips of the longest rows
        mb2ic1ih25iw61oc1kh7sh2ph3 wide, stride 2
        mb2ic1ih25iw61oc1kh3sh2ph1 wide, 3x3, stride 2
        ic1ih200iw112oc1kh5ph2 strips with halos
        mb300ic1ih3iw1oc1kh3ph1 a block for many images
        mb2g3ic3ih9iw25oc6kh3ph1 multiplier
        mb1ic1ih19iw14oc1kh3ph10pw0eh5 rows of dy above the input
        mb2g2ic2ih3iw1oc2kh3ph4pw1eh-4 rows of dy that meet padding alone
        mb1g3ic3ih29iw2oc15kh3ph8pw1eh-1 padding for a part
        ic1ih6iw20oc1kh3ph0pw30ew4 columns of dy that meet padding alone
        g2ic2ih12iw30oc2kh5ph0pw0eh-3ew-9 cropped
        """
    ),
    "grouped_?????_nhwc_small*": problems(
        """
        mb3g8ic32ih14oc32kh3ph1 march 3x3: ResNeXt's 4 channels, two bands
        g4ic64ih9iw17oc64kh3ph1 march 3x3: two slabs of inputs, a column and a row beyond
        g24ic24id4ih9iw7oc24kd3kh3ph1pd1 march 3x3x3
        mb2g16ic16ih17iw20oc16kh5ph2 march 5x5
        mb2g40ic40ih8iw19oc40kh7ph3 march 7x7, a slab alone
        mb9g17ic17ih7oc17kh3ph1 march 3x3: several images, channels in elements
        g8ic8ih2iw3oc8kh7ph5 march 7x7: padding beyond the filter's half
        g8ic8ih12iw11oc8kh3ph0pw1eh-2ew-3 march 3x3: cropped
        mb2g3ic9ih6iw11oc15kh3ph1 3 and 5 channels in a group
        g5ic35ih6iw9oc60kh3ph1 7 and 12 channels
        g2ic24ih5iw9oc32kh2kw3ph1 12 and 16 channels
        g9ic9ih6iw9oc144kh3ph1 a multiplier of 16
        g9ic144ih6iw9oc9kh3ph1 16 channels to one
        g7ic42ih9iw21oc14kh3kw2sh2sw3ph2pw1 6 and 2 channels, strides 2 and 3
        mb3g4ic32ih11iw13oc32kh3sh2ph1 stride 2
        g4ic16ih13iw9oc16kh5sh3ph2dh2 stride 3, dilation 2
        g2ic16ih7iw30oc16kh3ph4dh4 dilation 4
        g8ic8ih9iw20oc8kh1sh2sw1 stride beyond the filter: phases without taps
        g2ic8id5ih6iw9oc8kd2kh3kw4sd2sh1sw2pd1ph1pw2 3-D, stride 2
        g32ic128ih5iw9oc128kh1 1x1
        g3ic12iw150oc24kw5pw2 1-D
        mb2g4ic16iw97oc16kw3pw18ew0dw9 1-D, causal and dilated
        g4ic8ih3oc8kh4sh8ph1 filter smaller than the stride
        g4ic16ih14iw13oc16kh11kw9ph5pw4 a large filter
        """
    ),
    "transposed_*": problems(
        """
        mb2g3ic3ih130iw128oc3kh3sh2ph1 bands of rows
        g2ic2ih150iw137oc4kh6sh3ph2 bands of rows, multiplier
        g2ic2iw20000oc2kw5sw2pw2 parts of a row
        mb2g3ic3iw9001oc6kw3sw3pw7dw4 parts of a row, multiplier and dilation
        g2ic2ih33iw17oc2kh3sh2ph0pw2 no block at the first row
        g24ic24ih1iw1oc24kh3sh2ph1 one element
        g2ic2ih16iw37oc2kh4sh16ph3 a stride larger than the filter
        g3ic3ih18iw20oc3kh4sh2ph1pw2 4x4, even padding
        g3ic3ih17iw16oc3kh5sh2ph2pw1 5x5, odd padding
        g3ic3ih19iw18oc3kh7sh2ph3pw2 7x7, even padding
        g16ic16ih20iw40oc16kh3sh2ph1 more blocks than a tile
        ic1ih5oc2kh3sh2ph4 multiplier, rows of dy that meet padding alone
        mb3g2ic2ih6iw7oc6kh4kw3sh3sw1ph9pw8dh1dw2 multiplier, several planes of such rows
        mb2g5ic5ih2iw1oc5kh3sh2ph2pw1eh-1ew5 3x3, columns of dy that meet padding alone
        g3ic3ih14iw37oc3kh4sh2ph1ew5 4x4, such columns
        g24ic24ih8iw2oc24kh5sh2eh2ew5 5x5, such columns
        mb2g8ic8ih39iw5oc8kh7sh2pw3eh-12ew8 7x7, such columns
        """
    ),
    "grouped_?????_nhwc_gemm": problems(
        """
        mb4ic16ih8iw16oc64kh3ph1 two tiles of 256 positions
        mb3ic64ih7iw9oc128kh3ph1 two granule steps a tap, all of a wide tile
        mb2ic40ih9iw8oc136kh3sh2ph1 five granules, one granule more than a wide tile
        g3ic72ih6iw5oc120kh3ph1 three groups of three and of five granules
        g2ic48ih8iw7oc64kh1sh2 1x1 at stride 2: phases without taps
        mb2g5ic85ih5iw6oc35kh3ph1 17 and 7 channels, at odd places
        g2ic24ih9iw6oc10kh2kw3ph1pw2dw2 12 and 5 channels
        g4ic4ih5iw6oc12kh3ph1pw0eh2ew1 1 and 3 channels, padded at the end
        g2ic66ih4iw5oc6kh3ph1 33 and 3 channels
        ic3ih20iw17oc24kh7sh2ph3 three channels, 49 taps
        ic16ih8iw12oc16kh4sh4 a filter as wide as the stride
        ic8id4ih6iw4oc16kd2kh2kw2sd2sh2sw2 the same in three dimensions
        mb2ic3ih16iw24oc32kh8sh8 taps of a row as one, in granules
        mb2ic3ih14iw21oc10kh7sh7 the same in elements
        mb2ic5ih8iw9oc8kh3kw4sh1sw2ph1pw0 the same, overlapping
        mb2ic8ih9oc16kh2sh3ph1 a stride beyond the filter
        g2ic32id3ih4iw5oc32kd3kh3kw3pd1ph1pw1 3-D
        g2ic16iw150oc32kw3pw4dw4 1-D, a block and a rest
        mb5ic8ih5iw6oc24kh3ph4 padding wider than the filter
        ic16ih9iw10oc8kh3ph0pw0eh-3ew-4 cropped
        ic8ih10iw9oc8kh3sh3ph2dh2dw3 stride and dilation with no common divisor, and with one
        ic8ih12iw23oc8kh4sh4ph1dh2dw6 stride and dilation with a common divisor
        mb65537g1ic2iw1oc2kw1 batch beyond 65535
        g2ic256iw5oc192kw1 long sums, narrow tiles for few positions
        """
    ),
    "dilated_wgrad_nhwc": problems(
        """
        mb2g40ic40ih33oc40kh3ph12dh12 half a slice of channels, classes in three units
        mb3g37ic37ih13iw14oc37kh3ph3dh3 channels in elements, a class of one row less
        mb2g6ic6ih20iw21oc12kh3ph2dh2 multiplier
        g24ic24ih24iw19oc24kh5ph6dh3 four tiles of taps
        g17ic17ih18iw19oc17kh7ph6dh2 nine tiles of taps, two groups
        g16ic16ih80iw130oc16kh3ph2dh2 chunks of a class
        g16ic16ih9iw20oc16kh3ph1pw2dw2 a dilation of columns alone
        mb3g16ic16iw700oc16kw3pw32dw32 1-D
        mb70g16ic16ih4iw5oc16kh2ph1dh2 several images a block
        """
    ),
    "dilated_*": problems(
        """
        g8ic8ih33iw33oc8kh3ph12dh12 DeepLab's
        g8ic8ih20iw21oc8kh3ph36dh36 all but the middle in the padding
        g2ic2ih150iw140oc2kh3ph7dh7 classes of rows
        g1ic1ih130iw150oc2kh5kw3ph2eh0dh1dw4 bands of a class, multiplier
        g16ic16ih61iw75oc16kh3ph1dh2 classes of both axes
        g2ic2iw20000oc2kw2pw512ew0dw512 WaveNet's
        g4ic4ih7iw8oc4kh3dh2ph9pw0 rows of padding alone
        ic1ih4oc1kh5ph4dh2 3x3 taps of 5x5 that meet more than padding
        ic1ih12iw4oc1kh3kw5ph1pw4dh1dw2 3x3 taps of 3x5
        """
    ),
    "grouped_wgrad_nhwc_gemm": problems(
        """
        mb2g2ic8ih5iw7oc256kh3ph1 two tiles of filters, one of each group
        mb2ic40ih6iw5oc136kh3ph1 C/g 40, one granule more than a tile of filters
        g5ic60ih7iw6oc100kh3ph1 C/g 12, K/g 20: groups that begin within vectors
        g7ic49ih5iw6oc35kh3ph1 C/g 7, K/g 5
        g3ic72ih5iw6oc192kh1 C/g 24, K/g 64
        g3ic51ih4iw5oc51kh2 C/g 17, K/g 17
        g2ic64ih4iw6oc2kh3ph1 C/g 32, K/g 1
        g33ic33ih4iw5oc66kh3ph1 C/g 1, K/g 2
        mb5ic32ih3iw3oc32kh3sh3ph4 stride 3, rows in the padding alone
        mb3ic16ih9iw8oc24kh3ph3dh3 dilation 3
        mb2ic3ih19iw17oc16kh7sh2ph3 a stem
        mb2g2ic32id3ih4iw5oc32kd3kh3kw3pd1ph1pw1 3-D
        mb40ic16ih2iw3oc16kh2 more images than a stage has positions
        mb2g2ic32iw75oc48kw5sw2pw2 1-D, stages and a rest
        ic24ih9iw11oc24kh3ph0pw1eh-2ew-3 cropped
        """
    ),
    "grouped_wgrad_nhwc_small": problems(
        """
        mb2g32ic128ih9iw10oc128kh3ph1 C/g 4, four tiles of filters
        mb2g4ic64ih9iw10oc64kh3ph1 C/g 16: two vectors of x for one of dy
        mb2g5ic60ih7iw6oc20kh3ph1 C/g 12, K/g 4: groups that begin within vectors
        g7ic49ih5iw6oc35kh3ph1 C/g 7, K/g 5
        g9ic27ih5iw6oc18kh2 C/g 3, K/g 2
        g6ic6ih6iw7oc90kh3ph1 C/g 1, K/g 15
        mb2g8ic64ih15iw16oc64kh5ph2 C/g 8, 5x5
        mb2g4ic32ih12iw13oc32kh7ph3 C/g 8, 7x7
        g4ic64ih12iw13oc64kh5ph2 C/g 16, 5x5: 50 pairs
        g2ic32ih12iw13oc32kh7ph3 C/g 16, 7x7: two tiles of pairs
        mb2g4ic16ih9iw140oc16kh3ph1 boxes of a row
        g4ic16ih40iw37oc16kh3ph1 boxes of rows and columns, the last ones smaller
        mb7g4ic16ih5iw4oc16kh3ph1 several images a box, and a rest
        mb2g4ic16ih19iw18oc16kh3sh2ph1 stride 2
        mb2g4ic16ih17iw16oc16kh3ph2dh2 dilation
        mb2g4ic16id5ih6iw7oc16kd3kh3kw3pd1ph1pw1 3-D
        g4ic16id5ih6iw7oc16kd2kh3kw2sd2sh1sw3pd1ph0pw2dd2dh1dw1 3-D, strides and a dilation along the depth
        mb2g4ic16iw300oc16kw5pw2 1-D
        g4ic16ih9iw11oc16kh3ph0pw1eh-2ew-3 cropped
        """
    ),
}


def walk(row_name: str) -> tuple[ConvProblem, ...]:
    """Every problem that a row is tested on, if it serves it."""
    return (*PROBLEMS, *EDGES, *(p for pattern, tiles in TILES.items() if fnmatch(row_name, pattern) for p in tiles))
