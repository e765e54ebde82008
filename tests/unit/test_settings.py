"""Settings are parsed by the documented rules, and everything that stops the start is named, all at once."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import BadSetting
from core.settings import Settings, load

V4 = {"ENABLE_IPv4": "true"}
# The environment that the chart of the existing system gives its node daemon (deployment specification, 3).
CHART = {
    "ADDITIONAL_ENI_TAGS": "{}",
    "AWS_VPC_CNI_NODE_PORT_SUPPORT": "true",
    "AWS_VPC_ENI_MTU": "9001",
    "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "false",
    "AWS_VPC_K8S_CNI_EXTERNALSNAT": "false",
    "AWS_VPC_K8S_CNI_LOG_FILE": "/host/var/log/aws-routed-eni/ipamd.log",
    "AWS_VPC_K8S_CNI_LOGLEVEL": "DEBUG",
    "AWS_VPC_K8S_CNI_RANDOMIZESNAT": "prng",
    "AWS_VPC_K8S_CNI_VETHPREFIX": "eni",
    "AWS_VPC_K8S_PLUGIN_LOG_FILE": "/var/log/aws-routed-eni/plugin.log",
    "AWS_VPC_K8S_PLUGIN_LOG_LEVEL": "DEBUG",
    "DISABLE_INTROSPECTION": "false",
    "DISABLE_METRICS": "false",
    "ENABLE_POD_ENI": "false",
    "ENABLE_PREFIX_DELEGATION": "false",
    "WARM_ENI_TARGET": "1",
    "WARM_PREFIX_TARGET": "1",
    "DISABLE_NETWORK_RESOURCE_PROVISIONING": "false",
    "ENABLE_IPv4": "true",
    "ENABLE_IPv6": "false",
    "ENABLE_SUBNET_DISCOVERY": "true",
    "VPC_CNI_VERSION": "v1.23.1",
    "NETWORK_POLICY_ENFORCING_MODE": "standard",
    "ENABLE_IMDS_ONLY_MODE": "false",
    "ENABLE_MULTI_NIC": "false",
    "MY_NODE_NAME": "ip-10-0-0-1.ec2.internal",
    "MY_POD_NAME": "aws-node-x",
}


def read(**extra: str) -> Settings:
    return load({**V4, **extra})


def refused(environ: Mapping[str, str]) -> str:
    with pytest.raises(BadSetting) as caught:
        load(environ)
    return caught.value.text


def test_the_chart_starts_and_means_the_defaults() -> None:
    loaded = load(CHART)
    assert loaded.warnings == ()
    plain = load(V4)
    names = ("version", "node_name", "pod_name", "plugin_log_level")
    for name in plain.__dataclass_fields__:
        if name not in names:
            assert getattr(loaded, name) == getattr(plain, name), name
    assert loaded.node_name == "ip-10-0-0-1.ec2.internal"
    assert loaded.control_socket == "/var/run/aws-node/control.sock"


@pytest.mark.parametrize("value", ["1", "t", "T", "TRUE", "true", "True"])
def test_true(value: str) -> None:
    assert read(AWS_VPC_K8S_CNI_EXTERNALSNAT=value).external_snat


@pytest.mark.parametrize("value", ["", "yes", "tRUE", "on", " true", "2"])
def test_what_is_no_boolean_is_the_default_and_told(value: str) -> None:
    loaded = read(AWS_VPC_CNI_NODE_PORT_SUPPORT=value, AWS_VPC_K8S_CNI_EXTERNALSNAT=value)
    assert loaded.node_port_support
    assert not loaded.external_snat
    assert len(loaded.warnings) == 2
    assert repr(value) in loaded.warnings[0]


@pytest.mark.parametrize(
    ("value", "eni", "ip", "cap"),
    [
        ("0", 0, 0, None),
        ("7", 7, 7, 7),
        ("+7", 7, 7, 7),
        ("-1", 1, 0, None),
        ("x", 1, 0, None),
        ("1.5", 1, 0, None),
        (" 2", 1, 0, None),
        ("", 1, 0, None),
        ("٣", 1, 0, None),
    ],
)
def test_targets(value: str, eni: int, ip: int, cap: int | None) -> None:
    loaded = read(WARM_ENI_TARGET=value, WARM_IP_TARGET=value, MINIMUM_IP_TARGET=value, MAX_ENI=value)
    assert (loaded.warm_eni_target, loaded.warm_ip_target, loaded.minimum_ip_target) == (eni, ip, ip)
    assert loaded.max_eni == cap
    assert loaded.ip_targets == (ip != 0)


UNSERVED = {
    "ENABLE_PREFIX_DELEGATION": "true",
    "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "1",
    "ENABLE_MULTI_NIC": "T",
    "ENABLE_POD_ENI": "True",
    "ANNOTATE_POD_IP": "true",
    "DISABLE_NETWORK_RESOURCE_PROVISIONING": "true",
    "ENABLE_IMDS_ONLY_MODE": "true",
    "ENABLE_V6_EGRESS": "true",
    "ENABLE_V4_EGRESS": "false",
    "ENABLE_BANDWIDTH_PLUGIN": "true",
    "DISABLE_POD_V6": "true",
    "ENI_CONFIG_LABEL_DEF": "topology.kubernetes.io/zone",
    "ENI_CONFIG_ANNOTATION_DEF": "x",
    "INTROSPECTION_BIND_ADDRESS": "unix:/x",
    "WARM_PREFIX_TARGET": "2",
    "POD_SECURITY_GROUP_ENFORCING_MODE": "standard",
    "NETWORK_POLICY_ENFORCING_MODE": "Strict",
    "AWS_VPC_K8S_EGRESS_V4_PLUGIN_LOG_FILE": "/x",
    "AWS_VPC_K8S_EGRESS_V6_PLUGIN_LOG_FILE": "/x",
}


@pytest.mark.parametrize("name", sorted(UNSERVED))
def test_each_unserved_variable_is_named(name: str) -> None:
    assert f"{name}={UNSERVED[name]!r}" in refused({**V4, name: UNSERVED[name]})


def test_all_of_them_are_named_at_once_with_the_bad_ones() -> None:
    text = refused({**UNSERVED, "ENABLE_IPv6": "true", "POD_MTU": "9002"})
    for name in [*UNSERVED, "ENABLE_IPv6", "POD_MTU"]:
        assert f"{name}=" in text


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "ENABLE_IPv4"),
        ({"ENABLE_IPv4": "maybe"}, "ENABLE_IPv4"),
        ({"ENABLE_IPv4": "true", "ENABLE_IPv6": "true"}, "ENABLE_IPv6"),
        ({"ENABLE_IPv6": "true"}, "ENABLE_IPv6"),
        ({**V4, "IP_COOLDOWN_PERIOD": "-1"}, "IP_COOLDOWN_PERIOD"),
        ({**V4, "IP_COOLDOWN_PERIOD": "x"}, "IP_COOLDOWN_PERIOD"),
        ({**V4, "AWS_VPC_ENI_MTU": "575"}, "AWS_VPC_ENI_MTU"),
        ({**V4, "POD_MTU": "abc"}, "POD_MTU"),
        ({**V4, "AWS_VPC_K8S_CNI_VETHPREFIX": "toolong"}, "AWS_VPC_K8S_CNI_VETHPREFIX"),
        ({**V4, "AWS_VPC_K8S_CNI_VETHPREFIX": "vlan"}, "AWS_VPC_K8S_CNI_VETHPREFIX"),
        ({**V4, "AWS_VPC_K8S_CNI_VETHPREFIX": ""}, "AWS_VPC_K8S_CNI_VETHPREFIX"),
        ({**V4, "AWS_VPC_K8S_CNI_VETHPREFIX": "a/b"}, "AWS_VPC_K8S_CNI_VETHPREFIX"),
        ({**V4, "AWS_VPC_K8S_PLUGIN_LOG_FILE": "stdout"}, "AWS_VPC_K8S_PLUGIN_LOG_FILE"),
        ({**V4, "NETWORK_POLICY_ENFORCING_MODE": "loose"}, "NETWORK_POLICY_ENFORCING_MODE"),
        ({**V4, "ENID_RUN_DIR": "relative"}, "ENID_RUN_DIR"),
        ({**V4, "ENID_RUN_DIR": "/" + "x" * 90}, "ENID_RUN_DIR"),
        ({**V4, "ENID_ADD_WAIT": "forever"}, "ENID_ADD_WAIT"),
        ({**V4, "HOST_CNI_BIN_PATH": "bin"}, "HOST_CNI_BIN_PATH"),
        ({**V4, "AWS_ENDPOINT_URL_EC2": "ec2.local"}, "AWS_ENDPOINT_URL_EC2"),
        ({**V4, "AWS_EC2_METADATA_SERVICE_ENDPOINT": "ftp://x"}, "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
    ],
)
def test_fatal(environ: dict[str, str], name: str) -> None:
    assert f"{name}=" in refused(environ)


def test_values_that_fall_back_are_told() -> None:
    loaded = read(
        AWS_VPC_K8S_CNI_CONNMARK="0",
        AWS_VPC_K8S_CNI_RANDOMIZESNAT="dice",
        AWS_VPC_K8S_CNI_LOGLEVEL="loud",
        ADDITIONAL_ENI_TAGS='{"a": 1}',
        HTTP_TIMEOUT="3",
        AWS_VPC_K8S_CNI_EXCLUDE_SNAT_CIDRS=" 10.1.2.3/16, ,fd00::/8, bad, 10.1.0.0/16,0.0.0.0/0",
        ENID_ROUTE_LAYOUT="flat",
    )
    assert loaded.connmark == 0x80
    assert loaded.randomize_snat == "prng"
    assert loaded.log_level == "debug"
    assert loaded.additional_eni_tags == {}
    assert loaded.http_timeout_s == 10
    assert loaded.exclude_snat_cidrs == ("10.1.0.0/16", "0.0.0.0/0")
    told = "\n".join(loaded.warnings)
    for name in ("CONNMARK", "RANDOMIZESNAT", "LOGLEVEL", "ENI_TAGS", "HTTP_TIMEOUT", "'fd00::/8'", "'bad'", "LAYOUT"):
        assert name in told


@pytest.mark.parametrize(
    ("text", "mark"), [("0x100", 256), ("128", 128), ("0200", 128), ("0b1", 1), ("4294967295", 0xFFFFFFFF)]
)
def test_connmark(text: str, mark: int) -> None:
    assert read(AWS_VPC_K8S_CNI_CONNMARK=text).connmark == mark


def test_tags_of_others_are_dropped() -> None:
    loaded = read(ADDITIONAL_ENI_TAGS='{"team": "net", "x.k8s.amazonaws.com/y": "z"}')
    assert loaded.additional_eni_tags == {"team": "net"}
    assert len(loaded.warnings) == 1


def test_places() -> None:
    loaded = read(
        ENID_RUN_DIR="/n/run/",
        ENID_LOG_DIR="/n/log",
        ENID_CNI_BIN_DIR="/n/bin",
        HOST_CNI_BIN_PATH="/other",
        HOST_CNI_CONFDIR_PATH="/n/conf",
        AWS_VPC_K8S_CNI_LOG_FILE="/host/var/log/aws-routed-eni/ipamd.log",
        AWS_EC2_ENDPOINT="http://ec2.local/",
    )
    assert (loaded.run_dir, loaded.cni_socket) == ("/n/run", "/n/run/cni.sock")
    assert (loaded.spool_dir, loaded.journal_dir) == ("/n/run/spool", "/n/run/journal")
    assert (loaded.cni_bin_dir, loaded.cni_conf_dir) == ("/n/bin", "/n/conf")
    assert (loaded.log_file, loaded.plugin_log_file) == ("/n/log/ipamd.log", "/n/log/plugin.log")
    assert loaded.checkpoint_path == "/n/run/ipam.json"
    assert loaded.ec2_endpoint == "http://ec2.local"
    both = read(AWS_ENDPOINT_URL_EC2="http://a", AWS_EC2_ENDPOINT="http://b", AWS_VPC_K8S_CNI_LOG_FILE="stderr")
    assert (both.ec2_endpoint, both.log_file) == ("http://a", "stderr")


NAMES = sorted({*CHART, *UNSERVED, "MAX_ENI", "POD_MTU", "ENID_RUN_DIR", "AWS_VPC_K8S_CNI_CONNMARK", "ENID_ADD_WAIT"})


@given(st.dictionaries(st.sampled_from(NAMES), st.text(max_size=12)))
def test_any_text_is_read_or_refused_by_name(environ: dict[str, str]) -> None:
    refusal = ""
    try:
        load({**V4, **environ})
    except BadSetting as error:
        refusal = error.text
    assert not refusal or any(f"{name}=" in refusal for name in environ)
