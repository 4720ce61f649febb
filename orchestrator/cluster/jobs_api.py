"""Ray's Jobs API: submits commands to a cluster over HTTP, without joining it."""

import asyncio
import contextlib
import json
import logging
import os
import platform
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping
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
"""Ray's own; it would win over an address that is given, so this process sets it."""
STOP_WAIT_S = 60
"""How long a driver that is told to stop may take: trials leave checkpoints. Ray's own is 3 s."""
ANSWER_WAIT_S = 10.0
"""For the first answer. Ray's client would wait for as long as the machine's TCP does."""
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404


class JobsApi:
    """The submissions of one cluster; see `orchestrator.cluster.submission.Submissions`."""

    def __init__(self, address: str) -> None:
        """Connects.

        Raises:
            ClusterAccessError: The address is none, nothing of Ray answers there, the token is
                wrong or lacking, or the cluster's Ray or Python is another than this one's.
        """
        self.address = address.rstrip("/")
        if not self.address.startswith(("http://", "https://")):
            raise ClusterAccessError(
                f"{address!r} is not the address of a Ray dashboard; give http://head:8265"
            )
        if _wants_token(self.address):
            os.environ.setdefault("RAY_AUTH_MODE", "token")  # else Ray's client would send none
        os.environ[ADDRESS_VARIABLE] = self.address
        # Late: both variables are read when it is loaded.
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
        """Returns one submission as it is now.

        Raises:
            NoSubmissionError: The cluster does not know it.
        """
        with self._translated():
            submission = _submission(self._client.get_job_info(submission_id))
        if submission is None:
            raise NoSubmissionError(f"{submission_id} on {self.address} is no study's")
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
        """Returns what the command has printed."""
        with self._translated():
            return str(self._client.get_job_logs(submission_id))

    def follow(self, submission_id: str) -> Iterator[str]:
        """Yields what the command has printed and prints, until it has ended."""
        with self._translated(), asyncio.Runner() as runner:
            parts: AsyncIterator[str] = self._client.tail_job_logs(submission_id)
            while (part := runner.run(_next(parts))) is not None:
                yield part

    def _check_versions(self) -> None:
        """Compares Ray's release and Python's minor one; a cluster's nodes have the same."""
        import ray  # noqa: PLC0415 late, as above

        answer = self._client._do_request("GET", "/api/v0/cluster_metadata")  # noqa: SLF001 no other
        answer.raise_for_status()
        theirs = answer.json()["data"]
        here = platform.python_version()
        if theirs["rayVersion"] != ray.__version__:
            raise ClusterAccessError(
                f"{self.address} has Ray {theirs['rayVersion']} and this is Ray {ray.__version__}: "
                f'submit from an environment with "ray[default]=={theirs["rayVersion"]}", or start '
                f"the cluster with {ray.__version__}"
            )
        if _minor(theirs["pythonVersion"]) != _minor(here):
            raise ClusterAccessError(
                f"{self.address} has Python {theirs['pythonVersion']} and this is Python {here}: "
                "both must be of one minor version, such as 3.11"
            )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turns whatever goes wrong between here and the head into one line."""
        from aiohttp import ClientError  # noqa: PLC0415 late, as above
        from ray.exceptions import AuthenticationError  # noqa: PLC0415 late, as above

        try:
            yield
        except AuthenticationError as error:
            # Ray's words for 403; without any token its client does not even ask.
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
    """Waits for an answer, and tells whether the cluster refuses who brings no token.

    Raises:
        ClusterAccessError: There is none, or it is not one of Ray's.
    """
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=ANSWER_WAIT_S) as answer:  # noqa: S310 http alone
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
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ClusterAccessError(_not_ray(address, reason=repr(error))) from error
    return False


def _not_ray(address: str, *, reason: str) -> str:
    return (
        f"what answers at {address} is not a Ray dashboard with a Jobs API ({reason}); its port is "
        'usually 8265, and the head needs "ray[default]"'
    )


def _token_advice(address: str, *, is_wrong: bool) -> str:
    if is_wrong:
        return (
            f"{address} does not accept the token of RAY_AUTH_TOKEN (403): it is another cluster's"
        )
    return (
        f"{address} wants a token (401): set RAY_AUTH_TOKEN to the one that the cluster was "
        "started with, and RAY_AUTH_MODE=token"
    )


def _submission(details: Any) -> Submission | None:  # noqa: ANN401 Ray is untyped here
    """Returns what a job is to us, None if it is no study's."""
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
        started_at_s=(details.start_time or 0) / 1000,
        exit_code=details.driver_exit_code,
    )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
