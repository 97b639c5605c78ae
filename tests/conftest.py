"""Fixtures for every folder of tests."""

from tests.etcd_fixture import etcd_server, own_etcd, three_etcds

__all__ = ["etcd_server", "own_etcd", "three_etcds"]
