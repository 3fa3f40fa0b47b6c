//! A difference under traffic is read again once the tail has passed it. (H1)
