"""What tests, demo and benchmarks share: real brokers, proxies and processes. Nothing here imports pytest or gevent."""
