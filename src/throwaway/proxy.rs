//! A TCP proxy on loopback that delays, freezes and cuts connections, for tests and benchmarks.
