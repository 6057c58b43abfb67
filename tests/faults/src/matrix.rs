//! Which faults are run.
