"""Every kind of fault that ``densekit check`` knows: how bad it is, what it means, what to do and what --fix does."""

from dataclasses import dataclass

__all__ = ["ERROR", "INFO", "KINDS", "SEVERITIES", "WARNING", "Kind"]

ERROR, WARNING, INFO = "error", "warning", "info"
SEVERITIES = (ERROR, WARNING, INFO)


@dataclass(frozen=True)
class Kind:
    """One kind of finding.

    Attributes:
        name: short and stable, for JSON and for looking it up.
        severity: ``error`` where training or evaluation would stop or be wrong, ``warning`` where a person should
            look, ``info`` where it is worth knowing.
        title: what is found, in the plural.
        remedy: what to do about it.
        fix: what ``--fix`` does about it; empty where only a person can decide.
    """

    name: str
    severity: str
    title: str
    remedy: str
    fix: str = ""


_TABLE = (
    # The annotation file as a whole.
    Kind("annotations-unreadable", ERROR, "annotation files that cannot be read",
         "Copy or export the file again; a file that breaks off was not written to its end."),
    Kind("json-nan", WARNING, "files with NaN or Infinity, which JSON does not have",
         "Write numbers, or leave the entry out.", "writes none"),
    Kind("loader-refuses", ERROR, "data sets that the loader refuses",
         "Correct what the message names; check again, since further faults may hide behind the first."),
    Kind("file-refused", ERROR, "files of annotations that the loader refuses",
         "Correct what the message names, or take the file and its image out; the others can be read."),
    Kind("no-images", ERROR, "data sets without images", "Is it the right file, and was it exported in full?"),
    Kind("entry-incomplete", ERROR, "entries without a key that they need",
         "Add the key; ids are numbers, images need file_name, annotations image_id, category_id and bbox.",
         "removes the entry; a box is taken from the mask where there is one"),
    Kind("id-type", ERROR, "ids of images of mixed types, or text as ids of categories",
         "Use whole numbers throughout, 1 and \"1\" are different ids."),
    Kind("value-type", WARNING, "values in another form than COCO's, which are read as what they mean",
         "Other programs may read them otherwise. Write numbers without quotes, polygons as [[x0, y0, x1, y1, ...]].",
         "writes them in COCO's form"),
    Kind("annotation-id-odd", WARNING, "annotation ids that are text, fractions, negative or of more than 64 bits",
         "They are numbered anew inside and kept in every file; other programs may fail on them."),
    Kind("image-id-twice", ERROR, "image ids that occur twice", "Give each image an id of its own.",
         "keeps the first entry"),
    Kind("file-listed-twice", ERROR, "files listed as two images",
         "Merge the two entries: each would be trained on with half of the objects as background.",
         "merges the annotations into the first entry"),
    Kind("annotation-id-twice", ERROR, "annotation ids that occur twice", "Number the annotations anew.",
         "gives the later ones new ids"),
    Kind("annotation-id-zero", WARNING, "annotations with id 0",
         "Number from 1: COCO's metrics use 0 for 'no match' and count that object as never found.", "gives a new id"),
    Kind("category-id-twice", ERROR, "category ids that occur twice", "Give each category an id of its own.",
         "keeps the first entry"),
    Kind("category-name-twice", WARNING, "category names that occur twice",
         "Merge the categories or rename one; per-class figures of equal names overwrite each other."),
    Kind("image-unknown", ERROR, "annotations of images that are not listed",
         "Add the images or remove the annotations.", "removes the annotation"),
    Kind("category-unknown", ERROR, "annotations of categories that are not listed",
         "Add the category or correct category_id.", "removes the annotation"),
    Kind("num-classes", ERROR, "class counts that contradict NUM_CLASSES",
         "Set MODEL.ROI_HEADS.NUM_CLASSES (or MODEL.SEM_SEG_HEAD.NUM_CLASSES) to the number of classes of the data."),
    Kind("class-unused", INFO, "classes that never occur", "Their figures are undefined on this split."),
    # Images.
    Kind("path-outside", ERROR, "file names that lead out of their folder",
         "Name the folder that holds all files, and write names relative to it; such files are not opened.",
         "removes the image and its annotations"),
    Kind("image-missing", ERROR, "images that do not exist",
         "Copy the file, or correct the folder or file_name (its case counts).",
         "removes the image and its annotations"),
    Kind("image-unreadable", ERROR, "files that are no readable image", "Copy or download the file again.",
         "removes the image and its annotations"),
    Kind("image-truncated", ERROR, "images that break off before their end", "Copy or download the file again.",
         "removes the image and its annotations"),
    Kind("image-damaged", WARNING, "JPEGs with bytes that no encoder writes",
         "Look at them: decoders guess the rest, often as grey or shifted blocks. Copy the file again."),
    Kind("image-size-absent", ERROR, "images without width and height", "Enter the size of the file.",
         "enters the size of the file"),
    Kind("image-size-differs", ERROR, "images of another size than annotated",
         "Exchange the file, or correct width and height; annotations of a resized image must be scaled as well.",
         "enters the size of the file where the aspect ratio differs and all annotations fit"),
    Kind("exif-contradicts", ERROR, "images turned by EXIF against their annotations",
         "The annotations were made on the stored pixels, but the file is read upright. Remove the tag "
         "(exiftool -Orientation= FILE) or annotate the upright picture."),
    Kind("exif-ambiguous", WARNING, "images mirrored or turned by EXIF, in a way that the size does not tell",
         "See in the overlays whether the annotations fit the upright picture; if not, remove the tag "
         "(exiftool -Orientation= FILE)."),
    Kind("image-depth", WARNING, "images of more than 8 bits a channel",
         "65535 is read as 255; INPUT.BIT_DEPTH, or bit_depth in the data set's YAML, says if fewer bits are used."),
    Kind("content-twice", WARNING, "files with equal content under two names",
         "Keep one; copies weigh twice in training and make a random split leak."),
    Kind("leakage", ERROR, "images that both data sets have",
         "Take them out of one of the two: figures on images that were trained on mean nothing.",
         "removes the image and its annotations"),
    Kind("file-not-listed", INFO, "image files in the folder that are not listed",
         "They are not used. Images without objects have to be listed to serve as background."),
    Kind("image-empty", INFO, "images without an object",
         "Training leaves them out unless DATALOADER.FILTER_EMPTY_ANNOTATIONS is False."),
    # Boxes.
    Kind("box-malformed", ERROR, "boxes that are not four numbers", "A bbox is [x, y, width, height] in pixels.",
         "takes the box from the mask, or removes the annotation"),
    Kind("box-nan", ERROR, "boxes with NaN or infinite numbers", "A bbox is [x, y, width, height] in pixels.",
         "takes the box from the mask, or removes the annotation"),
    Kind("box-empty", ERROR, "boxes of zero or negative size", "Correct or remove them; training leaves them out.",
         "takes the box from the mask, or removes the annotation"),
    Kind("box-outside", ERROR, "boxes outside their image", "Is it the annotation of another image or size?",
         "takes the box from the mask, or removes the annotation"),
    Kind("box-over-border", WARNING, "boxes that reach over the border of their image",
         "Clip them; they are clipped for training, but not for evaluation.", "clips the box"),
    Kind("boxes-fractions", ERROR, "data sets with boxes in fractions of the image",
         "A bbox is in pixels: multiply by width and height (YOLO's first two numbers are the box's centre)."),
    Kind("boxes-xyxy", ERROR, "data sets with boxes that look like [x0, y0, x1, y1]",
         "A bbox is [x, y, width, height]: subtract the first corner from the second.", "subtracts the corners"),
    Kind("object-twice", WARNING, "objects annotated twice: equal image, class and box",
         "Remove one; the copy counts as missed in every evaluation.", "removes the copy"),
    Kind("area-contradicts", WARNING, "areas that are no number, not positive or larger than their box",
         "The area decides whether an object counts as small, medium or large; take it from mask or box.",
         "computes the area from mask or box"),
    Kind("crowd-flag", WARNING, "iscrowd values other than 0 and 1",
         "They are read as 0 where they say no or nothing, else as 1; write 0 or 1.", "writes how it is read"),
    Kind("crowd-unclear", ERROR, "iscrowd values that say neither yes nor no", "iscrowd is 0 or 1.", "writes 0"),
    Kind("ignore-flag", ERROR, "annotations with 'ignore', which COCO does not have", "Use iscrowd 1.",
         "turns it into iscrowd"),
    # Masks.
    Kind("segmentation-malformed", ERROR, "segmentations that are neither polygons nor RLE",
         "Write [[x0, y0, x1, y1, ...], ...] or {'size': [height, width], 'counts': ...}.", "removes the annotation"),
    Kind("segmentation-some", WARNING, "data sets in which only some objects have a mask",
         "Add the masks, or train on boxes (MODEL.MASK_ON False)."),
    Kind("polygon-degenerate", ERROR, "polygons of fewer than three points, an odd count of numbers or no area",
         "Remove them; training leaves them out.", "removes the polygon, and the annotation if it was the last"),
    Kind("polygon-box", ERROR, "polygons of four numbers: boxes, or lines",
         "Write the corners, [[x0, y0, x1, y0, x1, y1, x0, y1]], or no 'segmentation', with MODEL.MASK_ON False.",
         "removes the polygon, and the annotation if it was the last"),
    Kind("polygon-nan", ERROR, "polygons with NaN or infinite numbers", "Correct or remove them.",
         "removes the polygon, and the annotation if it was the last"),
    Kind("polygon-outside", WARNING, "polygons that reach over the border of their image", "Clip them.",
         "clips the corners"),
    Kind("rle-broken", ERROR, "RLE masks of another size than their image, or with other counts than pixels",
         "Encode the mask again from the image's size, [height, width].", "removes the annotation"),
    Kind("mask-empty", ERROR, "masks without a pixel", "Remove the annotation or draw the mask.",
         "removes the annotation"),
    Kind("mask-elsewhere", ERROR, "masks that do not touch their box", "One of the two belongs to another object."),
    Kind("mask-contradicts-box", WARNING, "masks that fill another rectangle than their box",
         "Take the box from the mask, unless it is meant to include hidden parts."),
    # Keypoints.
    Kind("keypoint-count", ERROR, "annotations with another number of keypoints than their category",
         "Write x, y, visibility for each keypoint of the category; 0, 0, 0 where it is not labelled.",
         "marks all as not labelled"),
    Kind("keypoint-nan", ERROR, "keypoints with NaN or infinite numbers", "Write 0, 0, 0 where a point is unknown.",
         "marks the point as not labelled"),
    Kind("keypoint-visibility", WARNING, "keypoints with a visibility other than 0, 1 and 2",
         "0: not labelled, 1: hidden, 2: visible; values above 0 are read as visible.",
         "takes values above 0 as visible, others as not labelled"),
    Kind("keypoint-unlabelled", WARNING, "keypoints with visibility 0 that have a place",
         "Set the visibility to 1 or 2, or the place to 0, 0: they are not used.", "sets the place to 0, 0"),
    Kind("keypoint-outside", WARNING, "labelled keypoints outside their image",
         "Correct them, or write 0, 0, 0 for what cannot be seen.", "marks the point as not labelled"),
    Kind("keypoint-number", WARNING, "num_keypoints that contradict the keypoints",
         "num_keypoints is the number of labelled points; evaluation skips objects with 0.", "counts anew"),
    Kind("keypoint-names", ERROR, "categories with contradicting or repeated keypoint names",
         "All categories with keypoints need the same list of different names."),
    Kind("keypoint-skeleton", ERROR, "skeletons with numbers that are no keypoint",
         "A skeleton has pairs of keypoint numbers, counted from 1.", "removes the limb"),
    Kind("keypoint-mirror", WARNING, "keypoints named left or right without their counterpart",
         "A mirrored image exchanges left_x and right_x; name both."),
    # Label images.
    Kind("label-missing", ERROR, "label images that do not exist", "Copy or make the file, or correct its name."),
    Kind("label-unreadable", ERROR, "label images that cannot be read", "Copy or make the file again."),
    Kind("label-channels", ERROR, "label images of several channels or lossy compression",
         "A label image is a PNG of one channel; its values are class numbers (a palette is fine, colours are not)."),
    Kind("label-size", ERROR, "label images of another size than their image", "Export the label at the image's size."),
    Kind("label-values", ERROR, "label values outside the class list",
         "Extend the class list, correct the values, or name the value as ignore_label."),
    Kind("label-void", WARNING, "label images without a labelled pixel", "Nothing can be learnt from them."),
    Kind("label-not-listed", INFO, "label images without an image", "They are not used; is an image missing?"),
    # Panoptic segments.
    Kind("panoptic-not-made", ERROR, "panoptic files that have not been made",
         "Make them: python datasets/prepare_cityscapes.py; only panoptic systems need them."),
    Kind("panoptic-missing", ERROR, "images without a panoptic annotation", "Annotate it, or take the image out."),
    Kind("segment-unlisted", ERROR, "segment ids in a PNG that its annotation does not list",
         "List the segment with its category, or paint it 0 (void). Colour is id = R + 256 G + 65536 B."),
    Kind("segment-absent", ERROR, "listed segments without a pixel in their PNG", "Remove them from segments_info."),
    Kind("segment-twice", ERROR, "segment ids listed twice for one image", "Give each segment an id of its own."),
    Kind("segment-area", WARNING, "segment areas or boxes that contradict the PNG", "Compute them from the PNG."),
    # Cityscapes.
    Kind("frame-incomplete", ERROR, "Cityscapes frames that lack files",
         "Unpack the labels anew; --json lists every frame and file."),
    Kind("frame-partial", WARNING, "Cityscapes frames that lack files of use to some systems only",
         "Unpack the labels anew; make labelTrainIds for all frames (datasets/prepare_cityscapes.py) or for none."),
    Kind("frame-stray", WARNING, "Cityscapes labels of frames without an image", "Unpack leftImg8bit as well."),
)  # fmt: skip

KINDS: dict[str, Kind] = {kind.name: kind for kind in _TABLE}
