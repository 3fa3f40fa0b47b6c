//! The order of the stages, from preflight to following. (lead)
