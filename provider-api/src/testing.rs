//! Running a provider without a gateway: the same steps over bytes of the test's choosing.
