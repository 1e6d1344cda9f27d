"""Keys below ``MODEL`` of a Faster R-CNN with a pyramid of a few channels, whose steps take no time."""

MODEL = {
    "DEVICE": "cpu",
    "META_ARCHITECTURE": "GeneralizedRCNN",
    "BACKBONE": {"NAME": "build_resnet_fpn_backbone", "FREEZE_AT": 0},
    "RESNETS": {
        "DEPTH": 50,
        "WIDTH_PER_GROUP": 4,
        "NORM": "BN",
        "STEM_OUT_CHANNELS": 8,
        "RES2_OUT_CHANNELS": 16,
        "OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    },
    "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"], "OUT_CHANNELS": 8},
    "ANCHOR_GENERATOR": {"SIZES": [[16], [32], [64], [128], [256]]},
    "RPN": {"IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"], "POST_NMS_TOPK_TRAIN": 50, "POST_NMS_TOPK_TEST": 20},
    "ROI_HEADS": {
        "NAME": "StandardROIHeads",
        "IN_FEATURES": ["p2", "p3", "p4", "p5"],
        "NUM_CLASSES": 80,
        "BATCH_SIZE_PER_IMAGE": 16,
        "SCORE_THRESH_TEST": 0.0,
    },
    "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 1, "FC_DIM": 16, "POOLER_RESOLUTION": 3},
}
