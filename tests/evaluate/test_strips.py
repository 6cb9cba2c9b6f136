"""Maps beside each other, and one after the other."""

import pytest
import torch
from PIL import Image
from scipy.linalg import orthogonal_procrustes

from sslortho.evaluate.strips import draw_strip, turn_to_fit


def maps(count, n=30):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, 2, generator=generator, dtype=torch.float64) for _ in range(count)]


def test_a_map_is_turned_as_scipy_turns_it():
    first, second = maps(2)
    turn, _ = orthogonal_procrustes(second.numpy(), first.numpy())
    torch.testing.assert_close(turn_to_fit(second, first), second @ torch.from_numpy(turn))


def test_a_turned_and_mirrored_map_is_found_again():
    (first,) = maps(1)
    mirror = torch.tensor([[0.6, 0.8], [0.8, -0.6]], dtype=torch.float64)  # determinant -1
    torch.testing.assert_close(turn_to_fit(first @ mirror, first), first)


@pytest.mark.parametrize("labels", [torch.arange(30) % 3, torch.full((30,), -1)])
def test_a_strip_grows_with_its_maps(tmp_path, labels):
    sizes = []
    for count in (2, 4, 8):  # 8: a second row
        path = tmp_path / f"{count}.png"
        draw_strip(path, maps(count), labels, ("a", "b", "_c"), [f"step {i}" for i in range(count)])
        with Image.open(path) as picture:
            sizes.append(picture.size)
    assert sizes[0][0] < sizes[1][0] < sizes[2][0]
    assert sizes[0][1] == sizes[1][1] < sizes[2][1]


def test_an_animation_has_a_frame_for_each_map(tmp_path):
    path = tmp_path / "x.gif"
    labels = torch.arange(30) % 25  # more classes than have colours
    draw_strip(path, maps(3), labels, (), ["a", "b", "c"], "title", seconds=0.5)
    with Image.open(path) as film:
        shown = []
        for frame in range(film.n_frames):
            film.seek(frame)
            shown.append(film.info["duration"])
    assert shown == [500, 500, 1500]


def test_points_that_coincide_are_drawn(tmp_path):
    draw_strip(tmp_path / "x.png", [torch.zeros(5, 2)], torch.zeros(5), (), ["collapsed"])
    assert (tmp_path / "x.png").stat().st_size > 0


def test_a_suffix_that_is_not_known(tmp_path):
    with pytest.raises(ValueError, match=r"must end in one of .*\.png"):
        draw_strip(tmp_path / "x.txt", maps(2), torch.zeros(30), (), ["a", "b"])
