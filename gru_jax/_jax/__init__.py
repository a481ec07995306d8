"""Whatever differs between JAX versions, or relies on a corner of JAX that may change: this package
and no other.

`jaxprs` reads and rewrites traced programs, `config` reads and sets flags, `tracing` asks tracers
and refuses forward mode, `sharding` places arrays on meshes, `processes` speaks between hosts.

Supported: JAX 0.10 to 0.12 (CHANGELOG.md has the policy). Where code elsewhere is written in a
    particular way because of a bug in one
version, a comment there says so.
"""
