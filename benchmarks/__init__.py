"""Every goal of speed and thrift, measured beside bare aiohttp and other clients.

python -m benchmarks [NAME …] [--json FILE|-] [--quick]
"""
