"""Submits commands to a cluster over HTTP with Ray's Jobs API, without joining the cluster."""

import asyncio
import contextlib
import json
import logging
import os
import platform
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import Any

from orchestrator.cluster.submission import (
    STORE_KEY,
    STUDY_KEY,
    ClusterAccessError,
    NoSubmissionError,
    Submission,
    attempt_of,
)

ADDRESS_VARIABLE = "RAY_API_SERVER_ADDRESS"
"""Ray's own variable. It takes precedence over a given address, so this process sets it."""
STOP_WAIT_S = 60
"""The time in which a stopped driver must end: its trials write checkpoints. Ray's is 3 s."""
ANSWER_WAIT_S = 10.0
"""The timeout of the first request. Ray's client sets none, so TCP's would apply."""
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404


class JobsApi:
    """The submissions of one cluster; see `orchestrator.cluster.submission.Submissions`."""

    def __init__(self, address: str) -> None:
        """Connects to the dashboard at an address, such as `http://head:8265`.

        Raises:
            ClusterAccessError: The address is no URL, no Ray dashboard answers there, the token is
                wrong or missing, or the cluster has another version of Ray or Python.
        """
        self.address = address.rstrip("/")
        if not self.address.startswith(("http://", "https://")):
            raise ClusterAccessError(
                f"{address!r} is not the address of a Ray dashboard; give http://head:8265"
            )
        if _wants_token(self.address):
            # Otherwise Ray's client would send no token.
            os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ[ADDRESS_VARIABLE] = self.address
        # Imported here because Ray reads both variables when it is imported.
        from ray.job_submission import JobSubmissionClient  # noqa: PLC0415

        logging.getLogger("ray").setLevel(logging.ERROR)
        logging.getLogger("ray.dashboard.modules.dashboard_sdk").setLevel(logging.ERROR)
        with self._translated():
            self._client = JobSubmissionClient(self.address)
            self._check_versions()

    def find_all(self) -> list[Submission]:
        """Returns every submission of a study that the cluster remembers."""
        with self._translated():
            found = (_submission(each) for each in self._client.list_jobs())
            return [each for each in found if each is not None]

    def find(self, submission_id: str) -> Submission:
        """Returns the present state of one submission.

        Raises:
            NoSubmissionError: The cluster does not know it.
        """
        with self._translated():
            submission = _submission(self._client.get_job_info(submission_id))
        if submission is None:
            raise NoSubmissionError(
                f"job {submission_id} on {self.address} is not a submission of a study"
            )
        return submission

    def submit(
        self, submission_id: str, *, command: str, folder: Path, metadata: Mapping[str, str]
    ) -> bool:
        """Uploads a folder and starts a command in it on the head; False if the id is taken."""
        with self._translated():
            try:
                self._client.submit_job(
                    entrypoint=command,
                    submission_id=submission_id,
                    runtime_env={
                        "working_dir": str(folder),
                        "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)},
                    },
                    metadata=dict(metadata),
                )
            except RuntimeError as error:
                if "already exists" in str(error):
                    return False
                raise
        return True

    def stop(self, submission_id: str) -> None:
        """Sends the command SIGTERM, and SIGKILL if it has not ended after `STOP_WAIT_S`."""
        with self._translated():
            self._client.stop_job(submission_id)

    def log(self, submission_id: str) -> str:
        """Returns the command's output so far."""
        with self._translated():
            return str(self._client.get_job_logs(submission_id))

    def follow(self, submission_id: str) -> Iterator[str]:
        """Yields the command's output, old and new, until it has ended."""
        with self._translated(), asyncio.Runner() as runner:
            parts: AsyncIterator[str] = self._client.tail_job_logs(submission_id)
            while (part := runner.run(_next(parts))) is not None:
                yield part

    def _check_versions(self) -> None:
        """Compares Ray's version and Python's minor version with the cluster's."""
        import ray  # noqa: PLC0415 late, as above

        answer = self._client._do_request("GET", "/api/v0/cluster_metadata")  # noqa: SLF001 there is no public method
        answer.raise_for_status()
        theirs = answer.json()["data"]
        here = platform.python_version()
        if theirs["rayVersion"] != ray.__version__:
            raise ClusterAccessError(
                f"{self.address} has Ray {theirs['rayVersion']}, and this is Ray "
                f"{ray.__version__}: submit from an environment with "
                f'"ray[default]=={theirs["rayVersion"]}", or start the cluster with '
                f"{ray.__version__}"
            )
        if _minor(theirs["pythonVersion"]) != _minor(here):
            raise ClusterAccessError(
                f"{self.address} has Python {theirs['pythonVersion']}, and this is Python {here}: "
                "both must have the same minor version, such as 3.11"
            )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turns every error of the connection into a `ClusterAccessError` of one line."""
        from aiohttp import ClientError  # noqa: PLC0415 late, as above
        from ray.exceptions import AuthenticationError  # noqa: PLC0415 late, as above

        try:
            yield
        except AuthenticationError as error:
            # Ray's text for 403. Without any token its client sends no request.
            is_wrong = str(error).startswith("Authentication failed")
            raise ClusterAccessError(_token_advice(self.address, is_wrong=is_wrong)) from error
        except (ClientError, OSError, RuntimeError, ValueError, LookupError) as error:
            if f"status code {_NOT_FOUND}" in str(error):
                raise NoSubmissionError(f"{self.address} knows no such submission") from error
            reason = " ".join(str(error).split())
            raise ClusterAccessError(f"the Jobs API at {self.address} failed: {reason}") from error


async def _next(parts: AsyncIterator[str]) -> str | None:
    return await anext(parts, None)


def _wants_token(address: str) -> bool:
    """Returns whether the cluster refuses requests without a token.

    Raises:
        ClusterAccessError: Nothing answers, or the answer is not from a Ray dashboard.
    """
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=ANSWER_WAIT_S) as answer:  # noqa: S310 only http and https
            json.load(answer)["ray_version"]
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (_UNAUTHORIZED, _FORBIDDEN):
            return True
        raise ClusterAccessError(_not_ray(address, reason=str(error))) from error
    except urllib.error.URLError as error:
        raise ClusterAccessError(
            f"nothing answers at {address} ({error.reason}): is the head up, and is its dashboard "
            "reachable from here?"
        ) from error
    except (InvalidURL, UnicodeError) as error:
        raise ClusterAccessError(
            f"{address!r} is not an address: {error}; give http://head:8265"
        ) from error
    except (OSError, HTTPException, ValueError, LookupError, TypeError) as error:
        raise ClusterAccessError(_not_ray(address, reason=repr(error))) from error
    return False


def _not_ray(address: str, *, reason: str) -> str:
    return (
        f"the server at {address} is not a Ray dashboard with a Jobs API ({reason}); the "
        'port of a dashboard is usually 8265, and the head needs "ray[default]"'
    )


def _token_advice(address: str, *, is_wrong: bool) -> str:
    if is_wrong:
        return (
            f"{address} does not accept the token in RAY_AUTH_TOKEN (403), which is another "
            "cluster's"
        )
    return (
        f"{address} requires a token (401): set RAY_AUTH_TOKEN to the token that the cluster was "
        "started with, and RAY_AUTH_MODE=token"
    )


def _submission(details: Any) -> Submission | None:  # noqa: ANN401 Ray is untyped here
    """Returns a job as a submission, None if it is not a study's job."""
    metadata = details.metadata or {}
    study, name = metadata.get(STUDY_KEY), details.submission_id
    attempt = attempt_of(name or "", study=study or "")
    if study is None or attempt is None:
        return None
    return Submission(
        id=name,
        study=study,
        attempt=attempt,
        store_url=metadata.get(STORE_KEY, ""),
        state=str(details.status),
        message=details.message or "",
        exit_code=details.driver_exit_code,
    )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
