"""The judges of hands read the references, and refuse what has a finger too many or too few."""

import functools
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from conftest import REPO
from host_install import cache_folder
from pocket.hands.judges import judge_hands, read_hands
from pocket.hands.landmarks import MEMBER, LandmarkNetwork, fetch_network, next_region
from pocket.hands.references import hand_pictures
from pocket.hands.silhouette import count_fingers, find_palm, skin_masks
from pocket.hands.skeleton import LIMITS, Misfit, explains, misfit
from pocket.hands.words import GESTURES, SIDES, VIEWS, extended

SPOILED = REPO / "tests" / "data" / "spoiled_hands.png"
FAULTS = ("real", "six", "missing", "stump", "fused", "two thumbs", "broken")


@pytest.fixture(scope="module")
def network() -> LandmarkNetwork:
    pytest.importorskip("ai_edge_litert")
    return LandmarkNetwork(fetch_network(cache_folder()), threads=2)


def references(side: str, view: str, count: int) -> torch.Tensor:
    """IMAGE of ``count`` of each gesture."""
    pictures = [hand_pictures(gesture, side, view, count) for gesture in GESTURES]
    return torch.from_numpy(np.concatenate(pictures)) / 255


@functools.cache
def spoiled(fault: str) -> torch.Tensor:
    """IMAGE of right palms that were to show five fingers."""
    with Image.open(SPOILED) as file:
        sheet = np.asarray(file.convert("RGB"))
    top = FAULTS.index(fault) * 64
    row = sheet[top : top + 64].reshape(64, -1, 64, 3).swapaxes(0, 1)
    return torch.from_numpy(row.copy()) / 255


def bars(lengths: list[int]) -> np.ndarray:
    """Mask [256, 256] of a palm with an arm below it, and bars that stand on it."""
    rows, columns = np.indices((256, 256))
    mask = np.hypot(rows - 150, columns - 128) < 45
    mask |= (rows > 150) & (abs(columns - 128) < 30)
    for column, length in zip(range(95, 256, 22), lengths, strict=False):
        mask |= (abs(columns - column) < 6) & (rows < 150) & (rows > 115 - length)
    return mask


@pytest.mark.parametrize("count", range(5))
def test_fingers_are_what_stands_out_of_the_palm(count):
    assert count_fingers(bars([70] * count)) == count


def test_a_stump_is_no_finger_nor_is_the_arm():
    assert count_fingers(bars([70, 5, 70])) == 2
    assert count_fingers(np.zeros((256, 256), bool)) == 0


def test_a_bump_that_does_not_reach_out_is_no_finger():
    rows, columns = np.indices((256, 256))
    bump = (abs(columns - 128) < 60) & (abs(rows - 150) < 13)
    assert count_fingers(bars([70]) | bump) == 1


def test_the_palm_is_the_largest_disc():
    row, column, radius = find_palm(bars([70, 70]))
    assert abs(column - 128) < 3 and 145 < row < 160 and 42 < radius < 48


def test_skin_is_what_differs_from_the_border():
    image = torch.full((1, 64, 64, 3), 0.2)
    image[0, 20:50, 20:40] = torch.tensor([0.8, 0.6, 0.5])
    image[0, 5:8, 5:8] = 0.9  # another shape, smaller
    (mask,) = skin_masks(image)
    assert abs(mask.mean() - 30 * 20 / 64**2) < 0.01
    assert not mask[:40, :40].any()


def test_a_plain_picture_has_no_skin():
    assert not skin_masks(torch.full((1, 64, 64, 3), 0.4)).any()


def skeleton() -> np.ndarray:
    """Points [21, 2] of an upright hand, its fingers spread."""
    points = np.zeros((21, 2))
    points[0] = 0.5, 0.8
    points[1:5] = [(0.42, 0.72), (0.36, 0.64), (0.3, 0.58), (0.25, 0.52)]
    for finger in range(4):
        for bone in range(4):
            spread = (finger - 1.5) * 0.02 * bone
            points[5 + 4 * finger + bone] = 0.41 + 0.06 * finger + spread, 0.5 - 0.08 * bone
    return points


def flesh(points: np.ndarray) -> np.ndarray:
    """Mask [256, 256] of all that is near a skeleton, and an arm."""
    rows, columns = np.indices((256, 256)) / 256
    mask = (abs(columns - 0.5) < 0.07) & (rows > 0.55)
    for finger in range(5):
        chain = points[[0, *range(1 + 4 * finger, 5 + 4 * finger)]]
        for a, b in itertools.pairwise(chain):
            for share in np.linspace(0, 1, 20):
                x, y = a + share * (b - a)
                mask |= np.hypot(columns - x, rows - y) < 0.03
    return mask


def test_a_skeleton_explains_its_own_flesh():
    found = misfit(skeleton(), (True,) * 5, flesh(skeleton()))
    assert found.skin < 0.01 and found.bone == 0
    assert found.tips == pytest.approx(1 - 0.12 / np.hypot([0.09, 0.09], 0.3).mean(), abs=0.01)


def test_a_finger_too_many_is_skin_that_nothing_explains():
    mask = flesh(skeleton())
    mask[60:130, 195:207] = True
    assert misfit(skeleton(), (True,) * 5, mask).skin > LIMITS.skin


def test_a_finger_too_few_is_a_bone_without_skin():
    mask = flesh(skeleton())
    mask[:115, 125:] = False
    assert misfit(skeleton(), (True,) * 5, mask).bone > LIMITS.bone


def test_two_tips_at_one_place_do_not_fit():
    points = skeleton()
    points[12] = points[8] + 0.01
    assert misfit(points, (True,) * 5, flesh(points)).tips > LIMITS.tips
    assert misfit(points, (True, True, False, True, True), flesh(points)).tips <= LIMITS.tips


def test_nothing_fits_where_there_is_no_skin():
    found = misfit(skeleton(), (True,) * 5, np.zeros((256, 256), bool))
    assert not explains(found)


@pytest.mark.parametrize("worse", range(3))
def test_each_misfit_alone_is_refused(worse):
    values = list(LIMITS)
    assert explains(Misfit(*values))
    values[worse] += 1e-6
    assert not explains(Misfit(*values))


def test_the_next_region_stands_upright_around_the_hand():
    points = torch.from_numpy(skeleton()).float()
    assert abs(next_region(points).angle) < 0.2
    turned = torch.stack([1 - points[:, 1], points[:, 0]], 1)  # clockwise by a quarter
    region = next_region(turned)
    assert region.angle == pytest.approx(next_region(points).angle + torch.pi / 2, abs=1e-4)
    assert region.side == pytest.approx(next_region(points).side, abs=1e-4)


def test_another_network_is_refused(tmp_path):
    (tmp_path / MEMBER.rsplit("/", 1)[1]).write_bytes(b"another")
    with pytest.raises(ValueError, match=r"mediapipe==0\.10\.21"):
        fetch_network(tmp_path)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("view", VIEWS)
def test_the_network_reads_the_references(network, side, view):
    readings = read_hands(network, references(side, view, 1))
    right = [r.extended == extended(g) for r, g in zip(readings, GESTURES, strict=True)]
    assert sum(right) >= 18
    assert sum((r.side, r.view) == (side, view) for r in readings) >= 18


def test_the_network_reads_points_where_the_hand_is(network):
    (reading,) = read_hands(network, references("right", "palm", 1)[8:9])
    (mask,) = skin_masks(references("right", "palm", 1)[8:9])
    places = (reading.points * 256).long().clamp(0, 255)
    assert mask[places[:, 1], places[:, 0]].mean() > 0.9


def judged(network, fault: str) -> np.ndarray:
    """Right, counted, explained, well-formed: shares of a row of spoiled hands."""
    verdicts = judge_hands(network, spoiled(fault), "five", "right", "palm")
    return np.array([[*verdict, verdict.well_formed] for verdict in verdicts]).mean(0)


def test_real_hands_are_well_formed(network):
    assert judged(network, "real")[3] >= 0.7


@pytest.mark.parametrize("fault", FAULTS[1:])
def test_spoiled_hands_are_not_well_formed(network, fault):
    assert judged(network, fault)[3] <= 0.4


def test_the_network_alone_takes_six_fingers_for_five(network):
    right, counted, explained, _ = judged(network, "six")
    assert right >= 0.8 and counted < 0.5 and explained < 0.5


def test_another_gesture_is_not_right(network):
    assert not any(
        v.right for v in judge_hands(network, spoiled("real")[:4], "fist", "right", "palm")
    )
    assert not any(
        v.right for v in judge_hands(network, spoiled("real")[:4], "five", "left", "palm")
    )
