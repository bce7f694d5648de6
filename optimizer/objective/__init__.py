"""What is measured: terms over data, and the one number they add up to."""
