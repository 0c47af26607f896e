import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")


def pytest_configure(config):
    """Two logical devices, so that laws about replicas can be tried on any machine."""
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


@pytest.fixture(scope="module", autouse=True)
def graphs_of_a_module_are_let_go():
    """Else the graphs of all tests are held to the end."""
    from rst_tf.graphs import let_go

    with let_go():
        yield
