"""Which of the teacher's texts are kept, and the training sets made of them."""
