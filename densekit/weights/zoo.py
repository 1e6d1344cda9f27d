"""The short names of published weights, ``detectron2://...`` and ``catalog://...``, and where their files are.

The first is an address on the server of Detectron2's model zoo. The second is an entry of Detectron2's catalogue of
Detectron's models (Caffe2), for which there are no sums.
"""

from difflib import get_close_matches

__all__ = ["PREFIXES", "zoo_url"]

_ZOO, _CATALOG = PREFIXES = ("detectron2://", "catalog://")
_SERVER = "https://dl.fbaipublicfiles.com/"
_CLASSIFIERS = {
    "MSRA/R-50": "MSRA/R-50",
    "MSRA/R-101": "MSRA/R-101",
    "FAIR/R-50-GN": "47261647/R-50-GN",
    "FAIR/R-101-GN": "47592356/R-101-GN",
    "FAIR/X-101-32x8d": "20171220/X-101-32x8d",
    "FAIR/X-101-64x4d": "FBResNeXt/X-101-64x4d",
    "FAIR/X-152-32x8d-IN5k": "25093814/X-152-32x8d-IN5k",
}
# Number and model -> the end of its folder's name, a time of day and a mark.
_DETECTORS = {
    "35857197/e2e_faster_rcnn_R-50-C4_1x": "01_33_49.iAX0mXvW",
    "35857345/e2e_faster_rcnn_R-50-FPN_1x": "01_36_30.cUF7QR7I",
    "35857890/e2e_faster_rcnn_R-101-FPN_1x": "01_38_50.sNxI7sX7",
    "36761737/e2e_faster_rcnn_X-101-32x8d-FPN_1x": "06_31_39.5MIHi1fZ",
    "35858791/e2e_mask_rcnn_R-50-C4_1x": "01_45_57.ZgkA7hPB",
    "35858933/e2e_mask_rcnn_R-50-FPN_1x": "01_48_14.DzEQe4wC",
    "35861795/e2e_mask_rcnn_R-101-FPN_1x": "02_31_37.KqyEK4tT",
    "36761843/e2e_mask_rcnn_X-101-32x8d-FPN_1x": "06_35_59.RZotkLKI",
    "48616381/e2e_mask_rcnn_R-50-FPN_2x_gn": "13_23_38.bTlTI97Q",
    "37697547/e2e_keypoint_rcnn_R-50-FPN_1x": "08_42_54.kdzV35ao",
    "35998355/rpn_R-50-C4_1x": "08_00_43.njH5oD9L",
    "35998814/rpn_R-50-FPN_1x": "08_06_03.Axg0r179",
    "36225147/fast_R-50-FPN_1x": "08_39_09.L3obSdQ2",
}
_ENTRIES = {f"ImageNetPretrained/{name}": f"ImageNetPretrained/{file}.pkl" for name, file in _CLASSIFIERS.items()}
_ENTRIES |= {f"Caffe2Detectron/COCO/{name}": "" for name in _DETECTORS}


def zoo_url(name: str) -> str:
    """The address of what a short name stands for; any other name stays as it is.

    Raises:
        ValueError: The catalogue has no such entry.
    """
    if name.startswith(_ZOO):
        return f"{_SERVER}detectron2/{name.removeprefix(_ZOO)}"
    if not name.startswith(_CATALOG):
        return name
    entry = name.removeprefix(_CATALOG)
    if entry not in _ENTRIES:
        near = get_close_matches(entry, _ENTRIES, n=3, cutoff=0.3) or _ENTRIES
        raise ValueError(
            f"{name} is not in Detectron2's catalogue of weights, which has {', '.join(_CATALOG + key for key in near)}"
            ". Give one of these, a detectron2:// name, an https:// address or the path of a file."
        )
    return f"{_SERVER}detectron/{_ENTRIES[entry] or _detector(entry.removeprefix('Caffe2Detectron/COCO/'))}"


def _detector(entry: str) -> str:
    number, model = entry.split("/")
    folder, config = f"{number}/12_2017_baselines", f"{model}.yaml"
    if model.endswith("_gn"):
        folder, config = f"GN/{number}/04_2018_gn_baselines", f"{model}_0416"
    config = config.replace("fast_R-50", "fast_rcnn_R-50")
    kind = "rpn" if model == "rpn_R-50-C4_1x" else "generalized_rcnn"
    task = "keypoints_" if "keypoint" in model else ""
    data = f"{task}coco_2014_train%3A{task}coco_2014_valminusminival"
    return f"{folder}/{config}.{_DETECTORS[entry]}/output/train/{data}/{kind}/model_final.pkl"
