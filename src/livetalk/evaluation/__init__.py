"""What a finished video is worth: lips against the voice, identity, seams, stillness, sharpness."""
