//! Developer tasks: demo, test, bench, lab, build-ebpf.
