"""Default config of the model. The built values are those of Faster R-CNN with a C4 backbone (arXiv 1506.01497)."""

from typing import Any

_BACKBONE: dict[str, Any] = {
    "NAME": "build_resnet_backbone",
    "FREEZE_AT": 2,  # stages kept at their initial weights: 0 none, 1 the stem, 2 the stem and res2
}

# ResNet and ResNeXt (arXiv 1512.03385, 1611.05431), for the backbone and for the res5 box head.
_RESNETS: dict[str, Any] = {
    "DEPTH": 50,
    "OUT_FEATURES": ["res4"],
    "NORM": "FrozenBN",  # or "BN", "SyncBN", "GN"
    "NUM_GROUPS": 1,
    "WIDTH_PER_GROUP": 64,
    "STRIDE_IN_1X1": True,  # where a downsampling block has its stride: True for MSRA weights, False for torchvision's
    "STEM_OUT_CHANNELS": 64,
    "RES2_OUT_CHANNELS": 256,  # doubles in each later stage; 64 for the depths 18 and 34
    "RES5_DILATION": 1,  # 2 keeps the stride of res4 in res5
    # Deformable convolution (arXiv 1703.06211; modulated: 1811.11168), switched for res2 .. res5.
    "DEFORM_ON_PER_STAGE": [False, False, False, False],
    "DEFORM_MODULATED": False,
    "DEFORM_NUM_GROUPS": 1,
}

# Feature pyramid (arXiv 1612.03144).
_FPN: dict[str, Any] = {
    "IN_FEATURES": [],
    "OUT_CHANNELS": 256,
    "NORM": "",
    "FUSE_TYPE": "sum",  # or "avg"
}

# One list for each feature map, or one for all of them.
_ANCHOR_GENERATOR: dict[str, Any] = {
    "NAME": "DefaultAnchorGenerator",
    "SIZES": [[32, 64, 128, 256, 512]],  # side of the square of equal area, input-image pixels
    "ASPECT_RATIOS": [[0.5, 1.0, 2.0]],  # height / width
    "OFFSET": 0.0,  # of the first anchor's centre, in strides
    "ANGLES": [[-90, 0, 90]],  # of rotated boxes, which only Detectron2 has; no other value here
}

# In IOU_THRESHOLDS / IOU_LABELS a box between two thresholds gets the label between them: 1 object, 0 background,
# -1 ignored. BBOX_REG_LOSS_TYPE: "smooth_l1", "giou", "diou" or "ciou"; SMOOTH_L1_BETA 0 is plain L1. BBOX_REG_WEIGHTS
# scale (dx, dy, dw, dh).
_RPN: dict[str, Any] = {
    "HEAD_NAME": "StandardRPNHead",
    "IN_FEATURES": ["res4"],
    "CONV_DIMS": [-1],  # channels of the hidden convolutions; -1: as many as come in
    "BOUNDARY_THRESH": -1,  # anchors further outside the image than this many pixels are dropped; negative: none
    "IOU_THRESHOLDS": [0.3, 0.7],
    "IOU_LABELS": [0, -1, 1],
    "BATCH_SIZE_PER_IMAGE": 256,  # anchors sampled for the loss
    "POSITIVE_FRACTION": 0.5,
    "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
    "BBOX_REG_LOSS_TYPE": "smooth_l1",
    "BBOX_REG_LOSS_WEIGHT": 1.0,
    "SMOOTH_L1_BETA": 0.0,
    "LOSS_WEIGHT": 1.0,
    # Boxes kept before non-maximum suppression (for each feature map) and after (for each image).
    "PRE_NMS_TOPK_TRAIN": 12000,
    "PRE_NMS_TOPK_TEST": 6000,
    "POST_NMS_TOPK_TRAIN": 2000,
    "POST_NMS_TOPK_TEST": 1000,
    "NMS_THRESH": 0.7,
}

_ROI_HEADS: dict[str, Any] = {
    "NAME": "Res5ROIHeads",
    "NUM_CLASSES": 80,  # without background
    "IN_FEATURES": ["res4"],
    "IOU_THRESHOLDS": [0.5],
    "IOU_LABELS": [0, 1],
    "BATCH_SIZE_PER_IMAGE": 512,  # proposals sampled for the loss
    "POSITIVE_FRACTION": 0.25,
    "PROPOSAL_APPEND_GT": True,  # ground-truth boxes join the proposals in training
    "SCORE_THRESH_TEST": 0.05,
    "NMS_THRESH_TEST": 0.5,
}

# POOLER_TYPE: "ROIAlignV2" (pixel centres at half integers), "ROIAlign" or "ROIPool"; a sampling ratio of 0 adapts to
# the box.
_ROI_BOX_HEAD: dict[str, Any] = {
    "NAME": "",  # as a Res5ROIHeads has it built in; "FastRCNNConvFCHead" otherwise
    "NUM_CONV": 0,
    "CONV_DIM": 256,
    "NUM_FC": 0,
    "FC_DIM": 1024,
    "NORM": "",
    "POOLER_TYPE": "ROIAlignV2",
    "POOLER_RESOLUTION": 14,
    "POOLER_SAMPLING_RATIO": 0,
    "CLS_AGNOSTIC_BBOX_REG": False,
    "BBOX_REG_WEIGHTS": (10.0, 10.0, 5.0, 5.0),
    "BBOX_REG_LOSS_TYPE": "smooth_l1",
    "BBOX_REG_LOSS_WEIGHT": 1.0,
    "SMOOTH_L1_BETA": 0.0,
    "TRAIN_ON_PRED_BOXES": False,  # the mask and keypoint heads train on the box head's boxes, not on the proposals
    # Federated loss and sigmoid classification for LVIS, which only Detectron2 has; no other values here.
    "USE_FED_LOSS": False,
    "USE_SIGMOID_CE": False,
    "FED_LOSS_FREQ_WEIGHT_POWER": 0.5,
    "FED_LOSS_NUM_CLASSES": 50,
}

# Cascade R-CNN (arXiv 1712.00726): one entry for each stage.
_ROI_BOX_CASCADE_HEAD: dict[str, Any] = {
    "IOUS": (0.5, 0.6, 0.7),
    "BBOX_REG_WEIGHTS": ((10.0, 10.0, 5.0, 5.0), (20.0, 20.0, 10.0, 10.0), (30.0, 30.0, 15.0, 15.0)),
}

# Mask R-CNN (arXiv 1703.06870).
_ROI_MASK_HEAD: dict[str, Any] = {
    "NAME": "MaskRCNNConvUpsampleHead",
    "NUM_CONV": 0,
    "CONV_DIM": 256,
    "NORM": "",
    "POOLER_TYPE": "ROIAlignV2",
    "POOLER_RESOLUTION": 14,
    "POOLER_SAMPLING_RATIO": 0,
    "CLS_AGNOSTIC_MASK": False,
}

_ROI_KEYPOINT_HEAD: dict[str, Any] = {
    "NAME": "KRCNNConvDeconvUpsampleHead",
    "NUM_KEYPOINTS": 17,
    "CONV_DIMS": (512,) * 8,
    "POOLER_TYPE": "ROIAlignV2",
    "POOLER_RESOLUTION": 14,
    "POOLER_SAMPLING_RATIO": 0,
    "MIN_KEYPOINTS_PER_IMAGE": 1,  # training leaves out images with fewer
    # True divides the loss by the visible keypoints of the batch; False by all that its boxes could have, where
    # LOSS_WEIGHT 4 gives about the same scale.
    "NORMALIZE_LOSS_BY_VISIBLE_KEYPOINTS": True,
    "LOSS_WEIGHT": 1.0,
}

# Panoptic FPN (arXiv 1901.02446): the semantic branch, and how both branches' results become one map.
_SEM_SEG_HEAD: dict[str, Any] = {
    "NAME": "SemSegFPNHead",
    "IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "NUM_CLASSES": 54,
    "IGNORE_VALUE": 255,
    "CONVS_DIM": 128,
    "COMMON_STRIDE": 4,  # all maps are brought to this stride and summed
    "NORM": "GN",
    "LOSS_WEIGHT": 1.0,
}

_PANOPTIC_FPN: dict[str, Any] = {
    "INSTANCE_LOSS_WEIGHT": 1.0,  # on all losses of the instance branch
    "COMBINE": {
        "ENABLED": True,  # has no effect; published files hold it
        "OVERLAP_THRESH": 0.5,  # an instance covered by more confident ones by more than this fraction is dropped
        "STUFF_AREA_LIMIT": 4096,  # pixels; smaller stuff regions become void
        "INSTANCES_CONFIDENCE_THRESH": 0.5,
    },
}

# RetinaNet (arXiv 1708.02002).
_RETINANET: dict[str, Any] = {
    "NUM_CLASSES": 80,  # without background
    "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    "NUM_CONVS": 4,  # 3x3 convolutions of each subnet, before the one that predicts
    "NORM": "",  # behind each of these; "BN" and "SyncBN" keep statistics for each feature map
    "PRIOR_PROB": 0.01,  # pi, the score that every class starts with
    "IOU_THRESHOLDS": [0.4, 0.5],
    "IOU_LABELS": [0, -1, 1],
    "BBOX_REG_WEIGHTS": (1.0, 1.0, 1.0, 1.0),
    "BBOX_REG_LOSS_TYPE": "smooth_l1",
    "SMOOTH_L1_LOSS_BETA": 0.1,
    "FOCAL_LOSS_GAMMA": 2.0,
    "FOCAL_LOSS_ALPHA": 0.25,
    "SCORE_THRESH_TEST": 0.05,
    "TOPK_CANDIDATES_TEST": 1000,  # best scores of each feature map that are decoded
    "NMS_THRESH_TEST": 0.5,
}

MODEL: dict[str, Any] = {
    "META_ARCHITECTURE": "GeneralizedRCNN",
    "DEVICE": "cuda",
    "WEIGHTS": "",  # a path or URL; "": random
    "PIXEL_MEAN": [103.530, 116.280, 123.675],  # of ImageNet, in INPUT.FORMAT's channel order
    "PIXEL_STD": [
        1.0,
        1.0,
        1.0,
    ],  # MSRA's weights have it absorbed in the first convolution; else [57.375, 57.120, 58.395]
    "MASK_ON": False,
    "KEYPOINT_ON": False,
    "LOAD_PROPOSALS": False,
    "BACKBONE": _BACKBONE,
    "RESNETS": _RESNETS,
    "FPN": _FPN,
    "ANCHOR_GENERATOR": _ANCHOR_GENERATOR,
    "PROPOSAL_GENERATOR": {
        "NAME": "RPN",  # or "PrecomputedProposals"
        "MIN_SIZE": 0,  # proposals with a shorter side, in input-image pixels, are dropped
    },
    "RPN": _RPN,
    "ROI_HEADS": _ROI_HEADS,
    "ROI_BOX_HEAD": _ROI_BOX_HEAD,
    "ROI_BOX_CASCADE_HEAD": _ROI_BOX_CASCADE_HEAD,
    "ROI_MASK_HEAD": _ROI_MASK_HEAD,
    "ROI_KEYPOINT_HEAD": _ROI_KEYPOINT_HEAD,
    "SEM_SEG_HEAD": _SEM_SEG_HEAD,
    "PANOPTIC_FPN": _PANOPTIC_FPN,
    "RETINANET": _RETINANET,
}
