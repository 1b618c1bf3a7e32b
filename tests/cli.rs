//! The command line from outside: what is printed where, and the exit status, for help and for bad input.
//! Nothing here needs an image or a running service.
