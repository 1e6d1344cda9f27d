"""The default config: Detectron2's keys with Detectron2's values.

Keys of parts that the runtime does not have keep their value; another one is an error, not a silence (see
:mod:`densekit.runtime.config.foreign`).
Names ending in ``_TRAIN`` and ``_TEST`` hold the same setting for training and for inference.
"""

from typing import Any

from densekit.runtime.config.defaults_model import MODEL
from densekit.runtime.config.node import VERSION, CfgNode

INPUT: dict[str, Any] = {
    "FORMAT": "BGR",  # channel order the model sees; PIXEL_MEAN and PIXEL_STD follow it
    "MIN_SIZE_TRAIN": (800,),  # shorter side in pixels: candidates ("choice") or bounds ("range")
    "MIN_SIZE_TRAIN_SAMPLING": "choice",
    "MAX_SIZE_TRAIN": 1333,  # the longer side never exceeds this
    "MIN_SIZE_TEST": 800,  # 0: inference at the size of the file
    "MAX_SIZE_TEST": 1333,
    "RANDOM_FLIP": "horizontal",  # or "vertical", "none"
    # TYPE and SIZE: "relative" and "relative_range" take fractions of (h, w); "absolute" and "absolute_range" pixels.
    "CROP": {"ENABLED": False, "TYPE": "relative_range", "SIZE": [0.9, 0.9]},
    "MASK_FORMAT": "polygon",  # or "bitmask", which also reads RLE annotations
}

DATASETS: dict[str, Any] = {
    "TRAIN": (),  # registered names; several are concatenated
    "TEST": (),
    # With MODEL.LOAD_PROPOSALS: one file of precomputed proposals for each data set, and how many are kept per image.
    "PROPOSAL_FILES_TRAIN": (),
    "PROPOSAL_FILES_TEST": (),
    "PRECOMPUTED_PROPOSAL_TOPK_TRAIN": 2000,
    "PRECOMPUTED_PROPOSAL_TOPK_TEST": 1000,
}

DATALOADER: dict[str, Any] = {
    "NUM_WORKERS": 4,  # loading processes for each training process
    "ASPECT_RATIO_GROUPING": True,  # wide images with wide ones: less padding
    "SAMPLER_TRAIN": "TrainingSampler",  # or "RepeatFactorTrainingSampler", "RandomSubsetTrainingSampler"
    # Repeat factor sampling (LVIS, arXiv 1908.03195): categories in fewer than this fraction of the images are
    # repeated, by the square root of threshold / fraction or by the ratio itself.
    "REPEAT_THRESHOLD": 0.0,
    "REPEAT_SQRT": True,
    "FILTER_EMPTY_ANNOTATIONS": True,  # leave images without objects out of training
}

SOLVER: dict[str, Any] = {
    "IMS_PER_BATCH": 16,  # images per step over all processes together
    "REFERENCE_WORLD_SIZE": 0,  # the number of processes the values here were chosen for; 0: do not rescale them
    "MAX_ITER": 40000,
    # Learning rate: BASE_LR times a schedule from 1 downwards, after a warm-up.
    "BASE_LR": 0.001,
    "LR_SCHEDULER_NAME": "WarmupMultiStepLR",  # or "WarmupCosineLR", "WarmupStepWithFixedGammaLR"
    "STEPS": (30000,),  # iterations at which WarmupMultiStepLR multiplies by GAMMA
    "GAMMA": 0.1,
    "NUM_DECAYS": 3,  # equally spaced decays of WarmupStepWithFixedGammaLR
    "BASE_LR_END": 0.0,  # where WarmupCosineLR ends
    "WARMUP_FACTOR": 1.0 / 1000,
    "WARMUP_ITERS": 1000,
    "WARMUP_METHOD": "linear",  # or "constant"
    "RESCALE_INTERVAL": False,  # squeeze the schedule into what is left after the warm-up
    # SGD
    "MOMENTUM": 0.9,
    "NESTEROV": False,
    "WEIGHT_DECAY": 0.0001,
    "WEIGHT_DECAY_NORM": 0.0,  # for the affine parameters of normalization layers
    "WEIGHT_DECAY_BIAS": None,  # None: as WEIGHT_DECAY
    "BIAS_LR_FACTOR": 1.0,
    # "value" clips each element at CLIP_VALUE, "norm" the NORM_TYPE norm of each parameter's gradient.
    "CLIP_GRADIENTS": {"ENABLED": False, "CLIP_TYPE": "value", "CLIP_VALUE": 1.0, "NORM_TYPE": 2.0},
    "AMP": {"ENABLED": False},  # mixed precision in training
    "CHECKPOINT_PERIOD": 5000,  # iterations
}

TEST: dict[str, Any] = {
    "DETECTIONS_PER_IMAGE": 100,
    "EVAL_PERIOD": 0,  # iterations; 0: only after training
    "EXPECTED_RESULTS": [],  # rows of [task, metric, value, tolerance]; a run that misses one fails
    "KEYPOINT_OKS_SIGMAS": [],  # one for each keypoint; empty: COCO's
    # Test-time augmentation: each image at these shorter sides, also mirrored.
    "AUG": {
        "ENABLED": False,
        "MIN_SIZES": (400, 500, 600, 700, 800, 900, 1000, 1100, 1200),
        "MAX_SIZE": 4000,
        "FLIP": True,
    },
    # Batch-norm statistics are re-estimated over NUM_ITER training batches before each evaluation.
    "PRECISE_BN": {"ENABLED": False, "NUM_ITER": 200},
}


def get_cfg() -> CfgNode:
    """A new config with all defaults; changing it changes no other."""
    return CfgNode(
        {
            "VERSION": VERSION,
            "MODEL": MODEL,
            "INPUT": INPUT,
            "DATASETS": DATASETS,
            "DATALOADER": DATALOADER,
            "SOLVER": SOLVER,
            "TEST": TEST,
            "OUTPUT_DIR": "./output",
            "SEED": -1,  # negative: a new one for each run
            "CUDNN_BENCHMARK": False,  # pays off when all images have one size
            "FLOAT32_PRECISION": "",  # of matrix products on CUDA: "highest", "high" or "medium"; "": torch's default
            "VIS_PERIOD": 0,  # iterations between pictures of the training batch; 0: none
            "GLOBAL": {"HACK": 1.0},  # Detectron2's, for experiments; nothing reads it
        }
    )
