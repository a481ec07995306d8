"""Wrong backward passes, planted to see which checkers find them: experiments.gradient_checkers, and the tests of `gj.verify_vjp`."""
