import pytest

from light_tts.client.errors import BadRequest, NotAllowed, ServerBusy, ServerFailed, refusal, session_refusal


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (401, NotAllowed),
        (403, NotAllowed),
        (404, BadRequest),
        (422, BadRequest),
        (429, ServerBusy),
        (500, ServerFailed),
        (503, ServerBusy),
        (504, ServerFailed),
    ],
)
def test_the_status_decides_the_kind(status, kind):
    assert type(refusal(status, "", {})) is kind


@pytest.mark.parametrize(
    ("body", "message", "code", "field"),
    [
        ('{"error": {"message": "m", "code": "c", "param": "p"}}', "m", "c", "p"),
        ('{"message": "m", "detail": null, "error_code": "C"}', "m", "C", None),
        ('{"detail": "d"}', "d", "", None),
        ("<html>", "<html>", "", None),
        ("[]", "[]", "", None),
        ("", "The server answered 400.", "", None),
    ],
)
def test_every_kind_of_body_is_understood(body, message, code, field):
    error = refusal(400, body, {"X-Request-Id": "id", "Retry-After": "soon"})
    assert (str(error), error.code, error.field) == (message, code, field)
    assert (error.request_id, error.retry_after_s) == ("id", None)


def test_sessions():
    assert isinstance(session_refusal(1008, "bad"), BadRequest)
    assert isinstance(session_refusal(1013, "full"), ServerBusy)
    assert "1011" in str(session_refusal(1011, ""))
