"""Picture quality by hand, against a slow reference, and against torchmetrics where it is installed."""

import math

import numpy as np
import pytest
import torch

from densekit.metrics.picture_quality import picture_quality, ssim_map


def pictures(size=(24, 31)):
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 256, (*size, 3))
    return np.clip(truth + generator.normal(0, 20, truth.shape), 0, 255).astype(np.uint8), truth.astype(np.uint8)


def test_known_values():
    truth, picture = np.zeros((16, 16, 3), np.uint8), np.full((16, 16, 3), 51, np.uint8)
    quality = picture_quality(picture, truth)
    assert quality.l1 == pytest.approx(20.0)
    assert quality.psnr == pytest.approx(20 * math.log10(255 / 51))
    # Without contrast the similarity is that of the light alone.
    assert quality.ssim == pytest.approx(2.55**2 / (51**2 + 2.55**2))
    same = picture_quality(truth, truth)
    assert same.l1 == 0 and same.psnr == math.inf and same.ssim == pytest.approx(1)


def test_similarity_equals_its_definition():
    a, b = (x.astype(float) for x in pictures())
    window = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    i, j, c = 12, 9, 1
    pa, pb = (x[i - 5 : i + 6, j - 5 : j + 6, c] for x in (a, b))
    ma, mb = (window * pa).sum(), (window * pb).sum()
    va, vb = (window * (pa - ma) ** 2).sum(), (window * (pb - mb) ** 2).sum()
    cov = (window * (pa - ma) * (pb - mb)).sum()
    c1, c2 = 2.55**2, 7.65**2
    expected = (2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
    assert ssim_map(a, b)[i, j, c] == pytest.approx(expected, abs=1e-9)


def test_a_region_counts_its_own_pixels():
    picture, truth = pictures()
    region = np.zeros(truth.shape[:2], bool)
    region[3:9, 5:20] = True
    quality = picture_quality(picture, truth, region)
    difference = picture[3:9, 5:20].astype(float) - truth[3:9, 5:20]
    assert quality.l1 == pytest.approx(np.abs(difference).mean() / 2.55)
    assert quality.psnr == pytest.approx(10 * math.log10(255**2 / (difference**2).mean()))
    assert quality.ssim == pytest.approx(ssim_map(picture.astype(float), truth.astype(float))[region].mean())
    assert all(math.isnan(value) for value in picture_quality(picture, truth, np.zeros_like(region)))


def test_other_sizes_are_refused():
    picture, truth = pictures()
    with pytest.raises(ValueError, match="cannot be compared"):
        picture_quality(picture[1:], truth)


def test_equals_torchmetrics():
    metrics = pytest.importorskip("torchmetrics.functional.image")
    picture, truth = pictures()
    a, b = (torch.from_numpy(x).permute(2, 0, 1)[None].double() for x in (picture, truth))
    quality = picture_quality(picture, truth)
    assert quality.psnr == pytest.approx(float(metrics.peak_signal_noise_ratio(a, b, data_range=255.0)), abs=1e-4)
    similarity = metrics.structural_similarity_index_measure(a, b, data_range=255.0)
    assert quality.ssim == pytest.approx(float(similarity), abs=1e-4)
