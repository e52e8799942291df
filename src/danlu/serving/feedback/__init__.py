"""What users say of answers: taken, masked, kept, and given back as rows to train on."""
