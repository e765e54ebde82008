"""An EC2 account in this process, under a clock that moves by hand: for tests that want thousands of calls a second.

    >>> account = Account(seed=1)
    >>> vpc = account.truth.create_vpc(["10.0.0.0/16"])
    >>> subnet = account.truth.create_subnet(vpc.vpc_id, "10.0.0.0/20", "us-west-2a")
    >>> node = account.truth.run_instance("m5.large", subnet.subnet_id, tags={"Name": "node-1"})
    >>> ec2 = account.client()
    >>> made = ec2.create_network_interface(SubnetId=subnet.subnet_id, SecondaryPrivateIpAddressCount=2)
    >>> [one["PrivateIpAddress"] for one in made["NetworkInterface"]["PrivateIpAddresses"]]
    ['10.0.0.5', '10.0.0.6', '10.0.0.7']

Faults and lags are those of `enid sandbox fault`; time passes only where it is told to, or where a call waits:

    >>> account.switch("imds-lag", "30")
    >>> new = ec2.assign_private_ip_addresses(NetworkInterfaceId=node.primary_eni_id, SecondaryPrivateIpAddressCount=1)
    >>> imds = account.metadata(node.instance_id)
    >>> imds.get(f"network/interfaces/macs/{imds.get('mac')}/local-ipv4s")
    '10.0.0.4'
    >>> account.advance(30)
    >>> imds.get(f"network/interfaces/macs/{imds.get('mac')}/local-ipv4s")
    '10.0.0.4\\n10.0.0.8'

Any boto3 client can be pointed here (`hook`); no socket is opened and no thread started. Everything follows from the
seed and the calls: two runs have the same ids, addresses, faults and `trace`, byte for byte.
"""

from __future__ import annotations

import functools
import io
import os
import random
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from sandbox.base.clocks import VirtualClock
from sandbox.base.failures import SandboxFailure
from sandbox.base.http import Request, Response
from sandbox.ec2.api import Api, Authorise
from sandbox.ec2.codec import Model
from sandbox.ec2.imds import TOKEN_HEADER, TOKEN_PATH, TTL_HEADER, Imds
from sandbox.ec2.records import Instance
from sandbox.ec2.space import Policy
from sandbox.ec2.truth import Truth
from sandbox.ec2.views import Delayed, View
from sandbox.world import furnish, script
from sandbox.world.furnish import KEY
from sandbox.world.scenario import Scenario
from sandbox.world.script import FaultList, Script, Step
from sandbox.world.switches import Switches

Document = str | bytes | list[dict[str, Any]]
READ_TIMEOUT: Final = 60.0


class Metadata:
    """The metadata service as one instance sees it."""

    def __init__(self, account: Account, instance_id: str) -> None:
        self._account = account
        self._instance_id = instance_id
        self._token = ""
        self._until = 0.0

    def ask(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Response:
        """One request as it is, from the instance's primary address. `drop` and `hang` of the answer: none came."""
        instance = self._account.truth.instance(self._instance_id)
        lower = {name.lower(): value for name, value in (headers or {}).items()}
        # By its VPC too: another one may have the same addresses.
        return self._account.imds.answer(Request(method, path, lower, b"", instance.private_ip), instance.vpc_id)

    def get(self, path: str) -> str | None:
        """What /latest/meta-data/PATH holds, by a session token that is renewed by itself; None for 404.

        Raises LookupError with the status for any other answer than these two, TimeoutError if there is none.
        """
        if self._account.now() >= self._until:
            made = self._told(self.ask("PUT", TOKEN_PATH, {TTL_HEADER: "21600"}))
            self._token, self._until = made or "", self._account.now() + 21_600
        return self._told(self.ask("GET", f"/latest/meta-data/{path}", {TOKEN_HEADER: self._token}))

    def _told(self, answer: Response) -> str | None:
        if answer.drop or answer.hang:
            raise TimeoutError("the metadata service gave no answer")
        if answer.status not in (200, 404):
            raise LookupError(f"the metadata service answered with status {answer.status}")
        return answer.body.decode() if answer.status == 200 else None


class Account:
    """One account and region. `truth` is the state, to be looked at and set up; `api` and `imds` its two servers.

    `policy`: how free addresses are chosen (`dense`, or `random`, which fragments subnets). `model`: share one
    `Model.load()` between accounts to save its 50 ms. Not for several threads at once.
    """

    def __init__(
        self,
        *,
        seed: int = 1,
        region: str = "us-west-2",
        account: str = "123456789012",
        policy: Policy = "dense",
        authorise: Authorise | None = None,
        model: Model | None = None,
    ) -> None:
        self.clock = VirtualClock()
        self.truth = Truth(self.clock, random.Random(seed), region=region, account=account, policy=policy)
        self.api = Api(self.truth, authorise=authorise, sleep=self.advance, model=model)
        self.imds = Imds(self.truth, sleep=self.advance)
        self._views: list[Delayed] = []
        self.switches = Switches(self.truth, self.api, self.imds)
        self.script = Script(self.truth, self.switches)
        self.api.called = self.imds.called = self.script.called
        self._lines: list[bytes] = []

    @classmethod
    def of(cls, wanted: Scenario, *, model: Model | None = None) -> Account:
        """A scenario's VPC, subnets and nodes, as `enid sandbox serve` has them; seed and region are the scenario's.

        Raises SandboxFailure bad-request.
        """
        wanted.check()
        account = cls(seed=wanted.seed, region=wanted.region, model=model)
        subnets = furnish.furnish(account.truth, wanted)
        for node in wanted.nodes:
            furnish.launch(account.truth, wanted, subnets, node)
        return account

    def node(self, name: str) -> Instance:
        """The instance with this Name tag that is not terminated. Raises SandboxFailure unknown."""
        for instance in self.truth.instances.values():
            if instance.tags.get("Name") == name and instance.state != "terminated":
                return instance
        raise SandboxFailure("unknown", f"there is no instance with the Name tag {name!r}")

    # --- time -----------------------------------------------------------------------------------------

    def now(self) -> float:
        """Seconds since 1970 by the virtual clock."""
        return self.clock.now()

    def advance(self, seconds: float) -> None:
        """Let time pass: what falls due on the way is done at its time, in order. Raises ValueError below 0."""
        if not seconds >= 0:
            raise ValueError(f"advance by {seconds} s: time does not go back")
        until = self.clock.now() + seconds
        while (due := self._tick()) is not None and due <= until:
            self.clock.move_to(max(due, self.clock.now()))
        self.clock.move_to(until)
        self._tick()

    def _tick(self) -> float | None:
        """Do what is due now; when the next thing is."""
        times = [self.truth.tick(), self.script.tick(), *(view.tick() for view in self._views)]
        return min((time for time in times if time is not None and time > self.clock.now()), default=None)

    def watch(self, view: View, lag: float = 0.0) -> Delayed:
        """Tell a view of each change, `lag` seconds late (the attribute may be changed)."""
        late = Delayed(view, self.clock, lag)
        self._views.append(late)
        self.truth.subscribe(late)
        return late

    # --- calls ----------------------------------------------------------------------------------------

    def call(self, action: str, members: Mapping[str, str] | None = None, *, peer: str = "-") -> Response:
        """One EC2 call by its wire members (`Filter.1.Name`), from an address: the fastest way in."""
        from urllib.parse import urlencode

        return self.api.handle(urlencode({"Action": action, **(members or {})}).encode(), peer)

    def client(self, service: str = "ec2", *, peer: str = "-", **options: Any) -> Any:
        """A boto3 client that calls this account. `options` are boto3's; without a `config` it does not retry, as
        botocore's pauses between attempts are in real time. The AWS_ variables and files of the caller are not read.

        Raises SandboxFailure bad-request for another service than EC2.
        """
        from botocore.config import Config  # type: ignore[import-untyped]  # has none

        options.setdefault("config", Config(retries={"total_max_attempts": 1}, read_timeout=READ_TIMEOUT))
        client = _session().client(
            service,
            region_name=self.truth.region,
            aws_access_key_id=KEY.access_key,
            aws_secret_access_key=KEY.secret,
            **options,
        )
        return self.hook(client, peer=peer)

    def hook(self, client: Any, *, peer: str = "-") -> Any:
        """Let an EC2 client that exists already call this account, from the address `peer`; returns it.

        Calls are made in the name of the account's root user, whatever the client's keys are.
        A call that gets no answer raises what botocore raises on a cut or silent connection; one that hangs takes
        the client's read timeout, in virtual time. Raises SandboxFailure bad-request for another service's client,
        whose calls would go out to AWS.
        """
        service = client.meta.service_model.service_name
        if service != "ec2":
            raise SandboxFailure("bad-request", f"client: service {service!r} is not simulated; there is: ec2")
        client.meta.events.register("before-send.ec2", lambda request, **_: self._send(client, request, peer))
        return client

    def _send(self, client: Any, request: Any, peer: str) -> Any:
        from botocore.awsrequest import AWSResponse  # type: ignore[import-untyped]  # has none
        from botocore.exceptions import ConnectionClosedError, ReadTimeoutError  # type: ignore[import-untyped]  # has none

        body = request.body if isinstance(request.body, bytes) else str(request.body or "").encode()
        answer = self.api.handle(body, peer)
        if answer.drop:
            raise ConnectionClosedError(endpoint_url=request.url, error="closed by a fault rule")
        if answer.hang:
            self.advance(float(client.meta.config.read_timeout))
            raise ReadTimeoutError(endpoint_url=request.url, error="hung by a fault rule")
        return AWSResponse(request.url, answer.status, {"Content-Type": answer.content_type}, _Raw(answer.body))

    def metadata(self, instance_id: str) -> Metadata:
        """The metadata service of one instance."""
        return Metadata(self, instance_id)

    # --- what goes wrong ------------------------------------------------------------------------------

    def switch(self, name: str, value: str | float) -> None:
        """One switch of `enid sandbox fault NAME VALUE`; `off`, 0 or an empty value clears it.

        Raises SandboxFailure bad-request.
        """
        self.switches.set(name, str(value))

    def load(self, steps: Document) -> list[str]:
        """A script, as text of a file or as Python values (see `world.script`); ids of the steps that wait.

        Steps that are due at once and could not be done are in `faults().failures`.
        Raises SandboxFailure bad-request naming the step; nothing is taken in then.
        """
        text = steps if isinstance(steps, str | bytes) else msgspec.json.encode(steps)
        parsed: list[Step] = script.parse(text)
        return self.script.load(parsed)

    def faults(self) -> FaultList:
        """Everything that is set or waits."""
        return self.script.listing()

    def clear(self, name: str = "*") -> None:
        """A rule or step by id, a switch by name, or all. Raises SandboxFailure unknown."""
        self.script.clear(name)

    # --- the trace ------------------------------------------------------------------------------------

    def record(self) -> None:
        """Begin a trace."""
        self._lines.clear()
        self.truth.trace.start(self._lines.append)

    @property
    def trace(self) -> bytes:
        """All lines since `record`: JSON, one call, fault, view's change or clock step each."""
        return b"".join(self._lines)


@functools.cache
def _session() -> Any:
    """A boto3 session that knows nothing but its defaults: no variable of the environment, no profile, no file."""
    import boto3  # type: ignore[import-untyped]  # has none
    from botocore.session import Session  # type: ignore[import-untyped]  # has none

    # By name of a setting: its key in the configuration file, its variable, its default, its conversion.
    deaf = {name: (None, None, default, how) for name, (_, _, default, how) in Session.SESSION_VARIABLES.items()}
    for name in ("config_file", "credentials_file"):
        deaf[name] = (None, None, os.devnull, None)
    # Endpoints are read past the settings above.
    deaf["ignore_configured_endpoint_urls"] = (None, None, True, None)
    return boto3.Session(botocore_session=Session(session_vars=deaf))


class _Raw(io.BytesIO):
    """A body as botocore reads it from urllib3."""

    def stream(self, amount: int = 65536, **_: object) -> Iterator[bytes]:
        while chunk := self.read(amount):
            yield chunk
