"""What can be measured in frames without a captioning model, and the sentences made of it."""
