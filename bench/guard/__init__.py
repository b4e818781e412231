"""`make guard`: counts the instructions of the REGISTER path and fails when they have grown by more than 10 %."""
