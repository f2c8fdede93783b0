"""What is drawn: the figures of README and docs, and the page with two scripts side by side."""
