"""The world of hands: what can be asked for, how rare it is, and the references that ship."""

import itertools

import numpy as np
import pytest

from pocket.hands.references import PER_VIEW, hand_pictures
from pocket.hands.words import (
    EXTENDED,
    GESTURES,
    GROUNDS,
    SIDES,
    TAIL_ORDER,
    TONES,
    VIEWS,
    extended,
    poses_seen,
    prompt,
    share_of_pictures,
)


def test_there_are_twenty_gestures_and_no_two_extend_the_same_fingers():
    assert len(GESTURES) == 20 and len(set(EXTENDED.values())) == 20
    assert (len(GROUNDS), len(TONES)) == (10, 6)


def test_fingers_are_told_from_thumb_to_pinky():
    assert extended("horns") == (False, True, False, False, True)
    assert extended("five") == (True,) * 5 and extended("fist") == (False,) * 5


def test_the_tail_falls_from_2200_poses_to_4():
    seen = [poses_seen(gesture) for gesture in TAIL_ORDER]
    assert sorted(TAIL_ORDER) == sorted(GESTURES)
    assert (seen[0], seen[-1]) == (2200, 4)
    assert all(more > less for more, less in itertools.pairwise(seen))
    share = [share_of_pictures(gesture) for gesture in TAIL_ORDER]
    assert sum(share) == pytest.approx(1)
    assert share[0] / share[-1] == pytest.approx((2200 / 4) ** 1.4)
    # What the shipped model was trained on: another order would be another model.
    assert TAIL_ORDER[-4:] == ("shaka", "open six", "point", "eight")


def test_a_prompt_tells_side_view_gesture_and_ground():
    assert prompt("horns", "left", "palm", "blue") == "a left hand, palm, horns, on blue"


@pytest.mark.parametrize("view", VIEWS)
def test_references_differ_and_a_left_hand_is_a_right_one_mirrored(view):
    right = hand_pictures("gun", "right", view)
    assert right.shape == (PER_VIEW, 64, 64, 3) and right.dtype == np.uint8
    assert len({picture.tobytes() for picture in right}) == PER_VIEW
    assert np.array_equal(hand_pictures("gun", "left", view)[..., ::-1, :], right)
    assert np.array_equal(hand_pictures("gun", "right", view, 2), right[:2])


def test_no_reference_is_there_twice():
    every = [
        hand_pictures(gesture, side, view)
        for gesture in GESTURES
        for side in SIDES
        for view in VIEWS
    ]
    pictures = np.concatenate(every)
    assert len({picture.tobytes() for picture in pictures}) == len(pictures) == 320
