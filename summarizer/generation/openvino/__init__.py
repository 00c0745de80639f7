"""Decoding by OpenVINO on a CPU: a model as its graph, and tokens from that. Needs the extra `openvino`."""
