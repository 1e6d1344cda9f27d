"""Colours of the classes of semantic segmentation: those that authors of public data sets draw them in, or others."""

from collections.abc import Sequence

from densekit.d2.utils.colormap import colormap

__all__ = ["ADE20K_COLOURS", "CAMVID_COLOURS", "Colour", "chosen_colours", "voc_colours"]

Colour = tuple[int, int, int]


def chosen_colours(listed: Sequence[Sequence[int]] | None, count: int) -> list[Colour]:
    """Returns RGB for so many classes: the listed colours, begun anew where they are too few, or different ones."""
    rows = listed or colormap(rgb=True, maximum=255).astype(int).tolist()
    return [(int(red), int(green), int(blue)) for red, green, blue in (rows[k % len(rows)] for k in range(count))]


def voc_colours(count: int = 256) -> list[Colour]:
    """Returns Pascal VOC's colours: the bits of a class's number, dealt in turn to red, green and blue."""
    colours = []
    for number in range(count):
        channels = [0, 0, 0]
        for place in range(8):
            for channel in range(3):
                channels[channel] |= (number >> (3 * place + channel) & 1) << (7 - place)
        colours.append((channels[0], channels[1], channels[2]))
    return colours


def _from_hex(table: str) -> list[Colour]:
    return [(word[0], word[1], word[2]) for word in map(bytes.fromhex, table.split())]


# Those that SceneParse150 is drawn in, in the order of its classes.
ADE20K_COLOURS = _from_hex("""
787878 b47878 06e6e6 503232 04c803 787850 8c8c8c cc05ff e6e6e6 04fa07 e005ff ebff07 96053d 787846 08ff33 ff0652
8fff8c ccff04 ff3307 cc4603 0066c8 3de6fa ff0633 0b66ff ff0747 ff09e0 0907e6 dcdcdc ff095c 7009ff 08ffd6 07ffe0
ffb806 0aff47 ff290a 07ffff e0ff08 6608ff ff3d06 ffc207 ff7a08 00ff14 ff0829 ff0599 0633ff eb0cff a09614 00a3ff
8c8c8c fa0a0f 14ff00 1fff00 ff1f00 ffe000 99ff00 0000ff ff4700 00ebff 00adff 1f00ff 0bc8c8 ff5200 00fff5 003dff
00ff70 00ff85 ff0000 ffa300 ff6600 c2ff00 008fff 33ff00 0052ff 00ff29 00ffad 0a00ff adff00 00ff99 ff5c00 ff00ff
ff00f5 ff0066 ffad00 ff0014 ffb8b8 001fff 00ff3d 0047ff ff00cc 00ffc2 00ff52 000aff 0070ff 3300ff 00c2ff 007aff
00ffa3 ff9900 00ff0a ff7000 8fff00 5200ff a3ff00 ffeb00 08b8aa 8500ff 00ff5c b800ff ff001f 00b8ff 00d6ff ff0070
5cff00 00e0ff 70e0ff 46b8a0 a300ff 9900ff 47ff00 ff00a3 ffcc00 ff008f 00ffeb 85ff00 ff00eb f500ff ff007a fff500
0abed4 d6ff00 00ccff 1400ff ffff00 0099ff 0029ff 00ffcc 2900ff 29ff00 ad00ff 00f5ff 4700ff 7a00ff 00ffb8 005cff
b8ff00 0085ff ffd600 19c2c2 66ff00 5c00ff
""")

# SegNet's, in the order of :data:`~densekit.data.semantic_classes.CAMVID`.
CAMVID_COLOURS = _from_hex("808080 800000 c0c080 804080 3c28de 808000 c08080 404080 400080 404000 0080c0")
