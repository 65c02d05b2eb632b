"""Gates: the checks that decide which questions are kept, cheap ones first (`operators.questions.gates.run`)."""
