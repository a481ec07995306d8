"""Everything that differs between JAX versions, or relies on a part of JAX that may change.

`jaxprs` reads and rewrites traced programs, `config` reads and sets flags, `tracing` inspects
tracers and refuses forward mode, `sharding` places arrays on meshes, `processes` communicates
between hosts, `kernels` runs GPU kernels.

Supported: JAX 0.10 to 0.12. CHANGELOG.md states the policy. Where code elsewhere works around a bug
of one version, a comment there says so.
"""
