//! One core's worth of product: ties the stations of a core to its reactor, and gives the control
//! plane a handle on all cores.

pub mod handle;
