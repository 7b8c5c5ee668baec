"""What is known of pixels, and what is not, is compared by name."""

import pytest

from i3d_jax.data.preprocessing import Preprocessing, refuse_mismatch, unknown
from i3d_jax.flow import codec
from i3d_jax.system.errors import UserError

FLOW = codec.description(implementation="opencv", version="1")


def compare(trained, data):
    refuse_mismatch(trained.to_json(), data.to_json(), expected_by="the network", found_in="the data")


def test_unknown_is_itself_and_nothing_else():
    one, other, known = (Preprocessing(jpeg_quality=quality) for quality in (unknown("one"), unknown("other"), 95))
    compare(one, one)
    for trained, data in ((one, other), (one, known), (known, one)):
        with pytest.raises(UserError, match=r"jpeg_quality .* against "):
            compare(trained, data)
    with pytest.raises(UserError, match=r"95 against 'unknown \(one\)'; what you know .* --config.data.stated.KEY"):
        compare(known, one)


def test_unknown_comes_back_from_json_and_is_refused_where_a_video_is_prepared():
    fields = Preprocessing(frame_rate=unknown("one"), interpolation=unknown("one")).to_json()
    found = Preprocessing.from_json(fields, where="here")
    assert found.to_json() == fields
    with pytest.raises(
        UserError, match=r"here was trained on frames .* of which frame_rate, interpolation is not known"
    ):
        found.refuse_unknown("here")
    Preprocessing().refuse_unknown("here")


def test_another_rounding_is_refused_by_name():
    ours, mediapipe = Preprocessing(flow=FLOW), Preprocessing(flow=codec.mediapipe_description(bound=None))
    for trained, data in ((ours, mediapipe), (mediapipe, ours)):
        with pytest.raises(UserError, match=r"flow.rounding '\w+' against '\w+'"):
            compare(trained, data)
    with pytest.raises(UserError, match="flow's rounding must be nearest or truncated, found 'up'"):
        Preprocessing(flow={**FLOW, "rounding": "up"})


def test_flow_of_the_time_before_there_was_another_rounding_is_rounded():
    before = Preprocessing(flow={key: value for key, value in FLOW.items() if key != "rounding"})
    now = Preprocessing(flow=FLOW)
    compare(before, now)
    compare(now, before)
    assert codec.rounding_of(before.flow) == "nearest"
    truncated = Preprocessing(flow={**FLOW, "rounding": "truncated"})
    for trained, data in ((before, truncated), (truncated, before)):
        with pytest.raises(UserError, match=r"flow\.rounding"):
            compare(trained, data)
    # A published network states neither whose flow it saw nor its rounding.
    compare(Preprocessing(flow={"algorithm": "tvl1", "bound": 20.0}), truncated)
