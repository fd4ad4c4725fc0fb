"""What was known about whom, and when: tables, snapshots, point-in-time examples, the encoder."""
