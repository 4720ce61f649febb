"""Retries of requests to an S3 server that meet a transient fault.

They replace botocore's own retries, which do not suit a cluster of workers. botocore waits 0.05 s
at first, so that five attempts take less than half a second. All threads of a client share a budget
of 35 retries, which sixteen threads use up in the first seconds of a server restart; a restart
takes 20 s.
"""

import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.exceptions import HTTPClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# The wait before the n-th retry is drawn at random from 0.5 to 1 times min(0.25 * 2**(n-1), 5) s,
# so that workers do not retry in step. The first five waits take 5.8 s on average and each further
# wait 3.75 s. This makes about 20 attempts in RETRY_TIMEOUT_S, 60 s, and the first request after a
# restart comes at most 5 s late.
_FIRST_DELAY_S = 0.25
_LONGEST_DELAY_S = 5.0
# 429 and 503 are throttling; the others are faults of a server or gateway. 507 is a full disk and
# therefore not transient.
_TRANSIENT_STATUS = {429, 500, 502, 503, 504}
# RequestTimeout has status 400: the server waited too long for the body.
TRANSIENT_CODES = {
    "InternalError",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
}
_FIRST_FAILURE = "mergesweep_first_failure_s"


def install_retries(
    client: "S3Client",
    *,
    retry_timeout_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Makes a client repeat requests that meet a transient fault, in place of botocore's retries.

    This includes the requests of multipart transfers. A refused request, for example with wrong
    credentials, is not repeated.

    Args:
        client: A client whose own retries are switched off (`total_max_attempts` 1).
        retry_timeout_s: No attempt starts later than this after the first failure. In total, a
            request takes at most this time plus two attempts, each as long as its timeouts.
        clock: Returns monotonic seconds.
    """

    def delay_before_retry(
        *,
        attempts: int,
        response: tuple[Any, Mapping[str, Any]] | None,
        caught_exception: Exception | None,
        request_dict: Mapping[str, Any],
        **_: object,
    ) -> float | None:
        if not _is_transient(response, caught_exception):
            return None
        now_s = clock()
        since_s = request_dict["context"].setdefault(_FIRST_FAILURE, now_s)
        delay_s = backoff_s(attempts)
        return delay_s if now_s + delay_s - since_s <= retry_timeout_s else None

    # Otherwise messages end with "reached max retries: 0".
    client.meta.events.unregister("needs-retry.s3", unique_id="retry-config-s3")
    # The type stubs only know handlers without a result; botocore uses the result of this event.
    client.meta.events.register("needs-retry.s3", delay_before_retry)  # type: ignore[arg-type]


def backoff_s(num_attempts: int) -> float:
    """Returns a random waiting time for after a number of attempts."""
    longest_s = min(_FIRST_DELAY_S * 2.0 ** min(num_attempts - 1, 16), _LONGEST_DELAY_S)
    return longest_s * random.uniform(0.5, 1)  # noqa: S311 spreads the workers


def _is_transient(
    response: tuple[Any, Mapping[str, Any]] | None, caught_exception: Exception | None
) -> bool:
    if response is None:
        # The connection was refused or reset, timed out, or ended in the middle of the answer.
        return isinstance(caught_exception, (NoConnectionError, HTTPClientError))
    answer, parsed = response
    # botocore turns an error in the body of a 200, which ends some multipart uploads, into a 500.
    code = parsed.get("Error", {}).get("Code")
    return answer.status_code in _TRANSIENT_STATUS or code in TRANSIENT_CODES
