"""Sends a request to an S3 server again, until a passing fault has passed or patience ends.

botocore's own retries do not fit a cluster of workers. Their first waits are of 0.05 s, so that
five attempts are over within half a second, and all threads of a client share one allowance of 35
retries: sixteen threads use it up in the first seconds of a server's restart, which takes 20.
"""

import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from botocore.exceptions import ConnectionError as NoConnectionError
from botocore.exceptions import HTTPClientError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# The wait before the n-th repetition is drawn from 0.5 to 1 times min(0.25 * 2**(n-1), 5) s, so
# that many workers do not come back in step. The first five take 5.8 s on average and each further
# one 3.75 s: within PATIENCE_S of 60 s some 20 attempts, and a server that is back is met at most
# 5 s later.
_FIRST_DELAY_S = 0.25
_LONGEST_DELAY_S = 5.0
# 429 and 503 are throttling, the others a server or gateway in trouble. Not 507: a full disk.
_PASSING_STATUS = {429, 500, 502, 503, 504}
# RequestTimeout is a 400: the server waited too long for the body.
PASSING_CODES = {
    "InternalError",
    "RequestTimeout",
    "ServiceUnavailable",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
}
_FIRST_FAILURE = "mergesweep_first_failure_s"


def be_patient(
    client: "S3Client",
    *,
    patience_s: float,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Makes a client repeat a request that met a passing fault, in place of botocore's retries.

    That covers the requests that a transfer in parts makes too. A refused request, for its
    credentials for example, is not repeated.

    Args:
        client: Its retries must be switched off (`total_max_attempts` 1).
        patience_s: No attempt begins later than this after the first one failed. All in all a
            request takes at most this and two attempts, each as long as its timeouts.
        clock: Seconds that only grow.
    """

    def delay_before_retry(
        *,
        attempts: int,
        response: tuple[Any, Mapping[str, Any]] | None,
        caught_exception: Exception | None,
        request_dict: Mapping[str, Any],
        **_: object,
    ) -> float | None:
        if not _is_passing(response, caught_exception):
            return None
        now_s = clock()
        since_s = request_dict["context"].setdefault(_FIRST_FAILURE, now_s)
        delay_s = backoff_s(attempts)
        return delay_s if now_s + delay_s - since_s <= patience_s else None

    # Else messages would end in "reached max retries: 0".
    client.meta.events.unregister("needs-retry.s3", unique_id="retry-config-s3")
    # The stubs know only handlers that return nothing; of this event the answer is used.
    client.meta.events.register("needs-retry.s3", delay_before_retry)  # type: ignore[arg-type]


def backoff_s(num_attempts: int) -> float:
    """Returns how long to wait after so many attempts, drawn at random."""
    longest_s = min(_FIRST_DELAY_S * 2.0 ** min(num_attempts - 1, 16), _LONGEST_DELAY_S)
    return longest_s * random.uniform(0.5, 1)  # noqa: S311 spreads the workers


def _is_passing(
    response: tuple[Any, Mapping[str, Any]] | None, caught_exception: Exception | None
) -> bool:
    if response is None:
        # Refused, reset, timed out, or an answer that broke off.
        return isinstance(caught_exception, (NoConnectionError, HTTPClientError))
    answer, parsed = response
    # An error in a body with status 200, as of a multipart upload's end, comes here as a 500.
    code = parsed.get("Error", {}).get("Code")
    return answer.status_code in _PASSING_STATUS or code in PASSING_CODES
